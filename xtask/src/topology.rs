//! `cargo xtask topology`: what is composed of what, as one drawing. A configuration ([`described`]) or what a running
//! machine told ([`machine`]) becomes a picture's content ([`model`]), its places ([`layout`]) and its text ([`svg`]).

mod described;
mod layout;
mod machine;
mod model;
mod svg;

use std::fs;
use std::path::Path;

use crate::cache::write_whole;
use crate::explain::Explain as _;

/// Draws the file, a configuration if its name says so, into `out` or onto standard output.
///
/// # Errors
/// The file cannot be read or is neither, or the drawing cannot be written.
pub(crate) fn run(file: &Path, out: Option<&Path>) -> Result<(), String> {
    let drawing = drawing_of(file)?;
    match out {
        None => print!("{drawing}"),
        Some(out) => {
            write_whole(out, drawing.as_bytes())?;
            eprintln!("wrote {}", out.display());
        }
    }
    Ok(())
}

fn drawing_of(file: &Path) -> Result<String, String> {
    let bytes = fs::read(file).explain(|| file.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let name = || file.display().to_string();
    let topology = if file.extension().is_some_and(|extension| extension == "toml") {
        let config = config::parse(&name(), &text).map_err(|error| error.to_string())?;
        // Without the folder, the drawing is the same wherever it is made.
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        described::topology(&name, &config)
    } else {
        return of_machine(&text).explain(name);
    };
    Ok(svg::write(&layout::draw(&topology)))
}

/// The drawing of what a running machine told last on its console.
///
/// # Errors
/// It told nothing, or not all.
pub(crate) fn of_machine(console: &str) -> Result<String, String> {
    Ok(svg::write(&layout::draw(&machine::topology(console)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_in_docs_is_what_the_command_makes() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let fresh = drawing_of(&docs.join("examples/dsa.toml")).unwrap();
        let kept = fs::read_to_string(docs.join("topology.svg")).unwrap();
        assert!(
            fresh == kept,
            "cargo xtask topology docs/examples/dsa.toml --out docs/topology.svg makes another"
        );
    }
}
