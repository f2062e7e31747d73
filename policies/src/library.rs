//! Ready policies, one per file, embedded so that the CLI can print them and tests compile them.
//!
//! Each is a whole `RemediationPolicy`: set its namespace, account and selector, then raise its autonomy when its record
//! in your cluster has earned that.

/// One ready policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: &'static str,
    /// The whole object as YAML, with its comments.
    pub yaml: &'static str,
}

macro_rules! entries {
    ($($name:literal)*) => {
        [$(Entry { name: $name, yaml: include_str!(concat!("../library/", $name, ".yaml")) }),*]
    };
}

/// All ready policies, by name.
pub const LIBRARY: [Entry; 6] = entries![
    "raise-memory-after-oom"
    "raise-memory-by-itself"
    "restore-image"
    "revert-bad-config"
    "revert-bad-release"
    "revert-unschedulable-change"
];
