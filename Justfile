# The verbs a person types. Without `just`: `cargo kvsweep ARGS…` does what `just bench ARGS…` does.

# Sweep a suite: `just bench longbench --budget 128`
bench *ARGS:
    cargo kvsweep run {{ARGS}}

# Needle heatmaps: `just needle --methods full,snapkv --budget 64`
needle *ARGS:
    cargo kvsweep run needle {{ARGS}}

# A published table, ours beside theirs: `just paper headkv-llama-3-8b --split mini`
paper *ARGS:
    cargo kvsweep paper {{ARGS}}

# The mini suite at this commit against the newest stored baseline; exits 3 on a significant loss
regress OUT="runs/regress":
    rm -rf {{OUT}}
    cargo kvsweep run longbench --budget 128 --limit 24 --out {{OUT}}
    cargo kvsweep compare stored {{OUT}} --gate

# Store the current commit (a clean tree) as the baseline that `regress` compares with
baseline OUT="runs/baseline":
    rm -rf {{OUT}}
    cargo kvsweep run longbench --budget 128 --limit 24 --out {{OUT}} --record-baseline

# All tests
test:
    cargo test

# Exactly what CI runs
ready:
    .ci/run
