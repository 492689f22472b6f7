# The verbs a person types. Without `just`: `cargo kvsweep ARGS…` does what `just bench ARGS…` does.

# Sweep a suite: `just bench longbench --budget 128`
bench *ARGS:
    cargo kvsweep run {{ARGS}}

# Needle heatmaps: `just needle --methods full,snapkv --budget 64`
needle *ARGS:
    cargo kvsweep run needle {{ARGS}}

# A published table, ours beside theirs: `just paper compresskv-table5 --split mini`
paper *ARGS:
    cargo kvsweep paper {{ARGS}}

# The mini suite at this commit against the stored baseline; exits 3 on a significant loss
regress BASE="main" *ARGS="--budgets 64,256":
    cargo kvsweep run longbench --record-baseline {{ARGS}}
    cargo kvsweep compare {{BASE}} HEAD --gate

# All tests
test:
    cargo test

# Exactly what CI runs
ready:
    .ci/run
