//! Which crate may import which: dependencies point one way, from the binaries down to the vocabulary `hw`.

use std::{collections::BTreeMap, path::Path};

use cargo_metadata::MetadataCommand;

use super::Violation;

/// Crate by crate: what of the workspace it may import, for whatever purpose, tests included. A crate that is not listed
/// has no arrows yet, which is a violation: its row belongs here before its first use.
const ALLOWED: [(&str, &[&str]); 33] = [
    ("hw", &[]),
    ("boot_info", &["hw"]),
    ("calibrate", &[]),
    ("config", &["hw"]),
    ("consoles", &[]),
    ("firmware", &["hw"]),
    ("frames", &["hw"]),
    ("images", &["hw"]),
    ("device_spec", &["hw"]),
    ("iommu_spec", &["hw"]),
    ("models", &["hw", "iommu_spec"]),
    ("siov", &["hw"]),
    ("dsa_model", &["device_spec", "hw"]),
    ("bed_bochs", &["device_spec", "dsa_model", "hw", "iommu_spec", "models", "pci", "siov"]),
    ("bed_qemu", &["device_spec", "dsa_model", "hw", "siov"]),
    ("iommu", &["device_spec", "hw", "iommu_spec", "models", "paging", "siov"]),
    ("manage", &[]),
    ("paging", &["hw"]),
    ("pci", &["hw"]),
    ("devices", &["device_spec", "dsa_model", "hw", "pci"]),
    ("compose", &["device_spec", "devices", "dsa_model", "hw", "pci", "vmm", "x86_spec"]),
    ("symbols", &[]),
    ("x86_spec", &["hw"]),
    ("vcpu", &["hw", "paging", "x86_spec"]),
    ("vmm", &["config", "hw", "images", "paging", "pci", "vcpu", "x86_spec"]),
    ("boot", &["boot_info", "config", "hw", "images", "paging"]),
    (
        "kernel",
        &[
            "boot_info",
            "calibrate",
            "compose",
            "config",
            "consoles",
            "devices",
            "firmware",
            "frames",
            "hw",
            "images",
            "iommu",
            "manage",
            "paging",
            "pci",
            "symbols",
            "vcpu",
            "vmm",
            "x86_spec",
        ],
    ),
    ("guests", &[]),
    (
        "host_tests",
        &[
            "boot_info",
            "config",
            "firmware",
            "frames",
            "hw",
            "images",
            "paging",
            "vcpu",
            "vmm",
            "x86_spec",
        ],
    ),
    ("peer", &[]),
    ("play", &["hw", "iommu", "models", "paging", "vmm", "x86_spec"]),
    ("peer_start", &[]),
    ("xtask", &["boot_info", "config", "hw", "images", "iommu_spec", "symbols", "vmm"]),
];

/// A crate of the workspace.
struct Crate {
    name: String,
    /// Its Cargo.toml, relative to the root.
    manifest: String,
    imports: Vec<String>,
}

/// The arrows of the workspace at `root` that point the wrong way.
pub(super) fn check(root: &Path) -> Result<Vec<Violation>, String> {
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .exec()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let crates = metadata.workspace_packages().into_iter().map(|package| Crate {
        name: package.name.to_string(),
        manifest: package
            .manifest_path
            .strip_prefix(&metadata.workspace_root)
            .unwrap_or(&package.manifest_path)
            .to_string(),
        // Those of the workspace, and only those, have a path.
        imports: package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
            .map(|dependency| dependency.name.clone())
            .collect(),
    });
    Ok(wrong_arrows(crates))
}

fn wrong_arrows(crates: impl IntoIterator<Item = Crate>) -> Vec<Violation> {
    let allowed = BTreeMap::from(ALLOWED);
    let mut violations = Vec::new();
    for Crate { name, manifest, imports } in crates {
        let violation = |what| Violation { file: manifest.clone(), line: 0, what };
        match allowed.get(name.as_str()) {
            None => violations.push(violation(format!(
                "xtask/src/tidy/arrows.rs has no row for the crate `{name}`"
            ))),
            Some(allowed) => violations.extend(
                imports
                    .iter()
                    .filter(|import| !allowed.contains(&import.as_str()))
                    .map(|import| violation(format!("`{name}` may not import `{import}`"))),
            ),
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(name: &str, imports: &[&str]) -> Vec<String> {
        let imports = imports.iter().map(|import| (*import).to_owned()).collect();
        let planted = Crate { name: name.into(), manifest: format!("{name}/Cargo.toml"), imports };
        wrong_arrows([planted]).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn arrows_that_point_up_are_refused() {
        for (name, import) in [
            ("hw", "x86_spec"),
            ("x86_spec", "paging"),
            ("paging", "x86_spec"),
            ("vcpu", "vmm"),
            ("vmm", "kernel"),
            ("images", "config"),
            ("xtask", "kernel"),
        ] {
            let found = planted(name, &["hw", import]);
            let expected = format!("{name}/Cargo.toml: `{name}` may not import `{import}`");
            assert!(found.contains(&expected), "{found:?}");
        }
        assert!(planted("vmm", &["vcpu", "hw", "x86_spec"]).is_empty());
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        assert_eq!(
            planted("newcomer", &[]),
            ["newcomer/Cargo.toml: xtask/src/tidy/arrows.rs has no row for the crate `newcomer`"]
        );
    }

    #[test]
    fn the_table_itself_has_no_circle() {
        let mut left = BTreeMap::from(ALLOWED);
        while let Some(name) = left
            .iter()
            .find(|(_, imports)| imports.iter().all(|name| !left.contains_key(name)))
            .map(|(name, _)| *name)
        {
            left.remove(name);
        }
        assert!(left.is_empty(), "in a circle: {:?}", left.keys());
    }
}
