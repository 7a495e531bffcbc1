//! What was recorded once: `tests/baseline.json`, figures by bed and row.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::bed::BedKind;
use crate::cache::write_whole;
use crate::explain::{Explain as _, advise};

/// How much more than recorded is a regression, in percent.
const TOLERANCE: u64 = 3;

/// Figures by row.
pub(crate) type Figures = BTreeMap<String, u64>;

/// What is recorded for a bed.
///
/// # Errors
/// There is no such file, it is damaged, or it says nothing of this bed.
pub(crate) fn read(root: &Path, bed: BedKind) -> Result<Figures, String> {
    let path = path(root);
    let all = load(&path)?;
    let figures = all.get(bed.name()).and_then(Value::as_object).explain(|| {
        advise(
            format!("{}: nothing is recorded for {}", path.display(), bed.name()),
            to_record(bed),
        )
    })?;
    let number = |(name, figure): (&String, &Value)| Some((name.clone(), figure.as_u64()?));
    figures
        .iter()
        .map(number)
        .collect::<Option<_>>()
        .explain(|| format!("{}: a figure of {} is no number", path.display(), bed.name()))
}

/// Records the figures of a bed, beside those of others.
///
/// # Errors
/// The file is damaged, or cannot be written.
pub(crate) fn write(root: &Path, bed: BedKind, figures: &Figures) -> Result<PathBuf, String> {
    let path = path(root);
    let mut all = if path.exists() { load(&path)? } else { Map::new() };
    all.insert(bed.name().into(), figures.iter().map(|(name, n)| (name.clone(), *n)).collect());
    write_whole(&path, format!("{:#}\n", Value::Object(all)).as_bytes())?;
    Ok(path)
}

/// Each figure that is too high, missing, or recorded nowhere; nothing where all is well.
pub(crate) fn regressions(recorded: &Figures, measured: &Figures) -> Vec<String> {
    let mut found = Vec::new();
    for (name, &was) in recorded {
        match measured.get(name) {
            None => found.push(format!("{name}: not measured, recorded {was}")),
            Some(&is) if is * 100 > was * (100 + TOLERANCE) => {
                found.push(format!("{name}: {is}, recorded {was}"));
            }
            Some(_) => {}
        }
    }
    let unknown = measured.iter().filter(|(name, _)| !recorded.contains_key(*name));
    found.extend(unknown.map(|(name, is)| format!("{name}: {is}, nothing recorded")));
    found
}

/// The rows that became better by more than the tolerance: worth recording.
pub(crate) fn gains(recorded: &Figures, measured: &Figures) -> Vec<String> {
    let gained = |name: &String, was: u64| {
        let is = *measured.get(name)?;
        (is * 100 < was * (100 - TOLERANCE)).then(|| format!("{name}: {is}, recorded {was}"))
    };
    recorded.iter().filter_map(|(name, was)| gained(name, *was)).collect()
}

/// What to do to record a bed's figures.
pub(crate) fn to_record(bed: BedKind) -> String {
    format!(
        "`cargo xtask bench exits --on {} --record` records what is measured now; commit it with the reason",
        bed.name()
    )
}

fn path(root: &Path) -> PathBuf {
    root.join("tests/baseline.json")
}

fn load(path: &Path) -> Result<Map<String, Value>, String> {
    let text = fs::read_to_string(path).explain(|| path.display().to_string())?;
    serde_json::from_str(&text).explain(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pairs: &[(&str, u64)]) -> Figures {
        pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn more_than_three_percent_is_a_regression() {
        let recorded = figures(&[("cpuid", 100), ("first-touch", 0)]);
        assert!(regressions(&recorded, &figures(&[("cpuid", 103), ("first-touch", 0)])).is_empty());
        let worse = figures(&[("cpuid", 104), ("first-touch", 1)]);
        assert_eq!(
            regressions(&recorded, &worse),
            ["cpuid: 104, recorded 100", "first-touch: 1, recorded 0"]
        );
    }

    #[test]
    fn a_row_that_is_missing_or_new_is_told() {
        let (recorded, measured) = (figures(&[("a", 1)]), figures(&[("b", 2)]));
        assert_eq!(
            regressions(&recorded, &measured),
            ["a: not measured, recorded 1", "b: 2, nothing recorded"]
        );
    }

    #[test]
    fn gains_are_told_beyond_the_tolerance() {
        let recorded = figures(&[("a", 100), ("b", 100)]);
        assert_eq!(gains(&recorded, &figures(&[("a", 97), ("b", 96)])), ["b: 96, recorded 100"]);
    }

    #[test]
    fn beds_are_recorded_side_by_side() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (figures(&[("a", 1)]), figures(&[("a", 2)]));
        assert!(read(root.path(), BedKind::Qemu).is_err());
        write(root.path(), BedKind::Qemu, &one).unwrap();
        assert!(read(root.path(), BedKind::Bochs).is_err());
        write(root.path(), BedKind::Bochs, &other).unwrap();
        assert_eq!(read(root.path(), BedKind::Qemu), Ok(one));
        assert_eq!(read(root.path(), BedKind::Bochs), Ok(other));
    }
}
