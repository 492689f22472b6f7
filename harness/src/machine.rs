//! What this machine has.

use std::path::{Path, PathBuf};

/// Bytes of memory that this process may still take: what the machine has free, or less where a control group
/// (a container, a batch job) allows less. `None` where the system does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    available_under(Path::new("/"))
}

/// The same, of the system files under `root`.
fn available_under(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let machine = line.split_whitespace().nth(1)?.parse::<u64>().ok()?.saturating_mul(1024);
    Some(groups(root).iter().filter_map(Group::free).fold(machine, u64::min))
}

/// A control group that limits memory.
struct Group {
    folder: PathBuf,
    files: &'static Files,
}

/// What a version of control groups calls its files.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with the bytes of files that are given back when memory is short.
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Files = Files { limit: "memory.max", used: "memory.current", reclaimable: "inactive_file" };

impl Group {
    /// Bytes left; `None` without a limit (`max`, or no such file).
    fn free(&self) -> Option<u64> {
        let number = |file: &str| -> Option<u64> {
            std::fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
        };
        let (limit, used) = (number(self.files.limit)?, number(self.files.used)?);
        let stat = std::fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == self.files.reclaimable)
            .and_then(|(_, bytes)| bytes.trim().parse::<u64>().ok());
        Some(limit.saturating_sub(used.saturating_sub(reclaimable.unwrap_or(0))))
    }
}

/// This process's group and those around it, each of which limits it.
fn groups(root: &Path) -> Vec<Group> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, files) = match controllers {
            "" => (root.join("sys/fs/cgroup"), &V2),
            list if list.split(',').any(|one| one == "memory") => (root.join("sys/fs/cgroup/memory"), &V1),
            _ => continue,
        };
        // Inside a container the path may be that of the host: then only the mount itself is there.
        let mut folder = mount.join(path.trim_start_matches('/'));
        while folder.starts_with(&mount) {
            groups.push(Group { folder: folder.clone(), files });
            if !folder.pop() {
                break;
            }
        }
    }
    groups
}

/// Processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            kvsweep_results::write_atomic(&path, text.as_bytes()).unwrap();
        }
        available_under(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");

    #[test]
    fn a_machine_without_groups_has_what_it_says() {
        assert_eq!(system(&[]), None);
        assert_eq!(system(&[MACHINE]), Some(8000 * 1024));
        let unlimited = [
            MACHINE,
            ("proc/self/cgroup", "0::/user\n"),
            ("sys/fs/cgroup/user/memory.max", "max\n"),
            ("sys/fs/cgroup/user/memory.current", "5\n"),
        ];
        assert_eq!(system(&unlimited), Some(8000 * 1024));
    }

    #[test]
    fn the_tightest_group_counts() {
        let v2 = [
            MACHINE,
            ("proc/self/cgroup", "0::/job/step\n"),
            ("sys/fs/cgroup/job/step/memory.max", "4000000\n"),
            ("sys/fs/cgroup/job/step/memory.current", "1500000\n"),
            ("sys/fs/cgroup/job/step/memory.stat", "anon 500000\ninactive_file 1000000\n"),
            ("sys/fs/cgroup/job/memory.max", "3000000\n"),
            ("sys/fs/cgroup/job/memory.current", "2000000\n"),
        ];
        // The step has 4,000,000 - (1,500,000 - 1,000,000) left, the job around it 1,000,000.
        assert_eq!(system(&v2), Some(1_000_000));
        assert_eq!(system(&v2[..5]), Some(3_500_000));
        let over = [
            MACHINE,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "4000\n"),
            ("sys/fs/cgroup/memory.current", "5000\n"),
        ];
        assert_eq!(system(&over), Some(0));
    }

    #[test]
    fn the_first_version_is_read_too_and_inside_a_container() {
        let v1 = [
            MACHINE,
            ("proc/self/cgroup", "12:cpu,cpuacct:/d/0ab\n9:memory:/docker/0ab\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "600000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 100000\n"),
        ];
        assert_eq!(system(&v1), Some(1_500_000));
    }
}
