//! A [`Drawing`] as SVG: text of a font of one width, and colours for light and dark surroundings. The background is the
//! picture's own, so that it can be read wherever it is shown.

use std::fmt::{self, Display, Formatter, Write as _};

use super::layout::{COLUMNS, Drawing, Placed};
use super::model::Speed;

/// What the colours of rows mean.
const LEGEND: [(Speed, &str); 2] =
    [(Speed::Fast, "fast: pages mapped into the VM"), (Speed::Slow, "slow: accesses come to Kerf")];
const ROW: u32 = 18;
const INDENT: u32 = 10;
/// From the middle of a row down to where its letters stand.
const BASELINE: u32 = 4;
const STYLE: &str = "\
text { font: 12px monospace; fill: #1f2328 }
.name { font-weight: bold }
.ground { fill: #ffffff }
.box { fill: #f6f8fa; stroke: #57606a }
.column { fill: #57606a }
.line { stroke: #57606a; stroke-width: 1.5 }
.fast { fill: #b4e3bd }
.slow { fill: #ffd8a8 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.ground { fill: #0d1117 }
.box { fill: #161b22; stroke: #8b949e }
.column { fill: #8b949e }
.line { stroke: #8b949e }
.fast { fill: #1f5a2e }
.slow { fill: #7a4a12 }
}
";

/// Writes it; the same drawing gives the same bytes.
pub(super) fn write(drawing: &Drawing) -> String {
    let mut text = String::new();
    // A string takes everything.
    let _ = write_to(&mut text, drawing);
    text
}

fn write_to(to: &mut String, drawing: &Drawing) -> fmt::Result {
    let [width, height] = drawing.size;
    writeln!(
        to,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">"#
    )?;
    if let Some((_, about)) = drawing.about.first() {
        writeln!(to, "<title>{}</title>", Escaped(about))?;
    }
    writeln!(to, "<style>\n{STYLE}</style>")?;
    writeln!(to, r#"<rect class="ground" width="{width}" height="{height}"/>"#)?;
    for (index, (y, about)) in drawing.about.iter().enumerate() {
        text(to, if index == 0 { "name" } else { "column" }, [INDENT, *y], about)?;
    }
    for (column, x) in COLUMNS.into_iter().zip(drawing.columns) {
        text(to, "column", [x, drawing.headings], column)?;
    }
    for line in &drawing.lines {
        let [[x1, y1], [x2, y2]] = line.ends;
        writeln!(to, r#"<line class="line" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#)?;
    }
    drawing.boxes.iter().try_for_each(|placed| write_box(to, placed))?;
    for (index, (speed, meaning)) in LEGEND.into_iter().enumerate() {
        let at = [drawing.columns[2 * index], drawing.legend];
        rect(to, class(speed), [at[0], at[1] - ROW / 2], [2 * INDENT, ROW - 2])?;
        text(to, "column", [at[0] + 3 * INDENT, at[1]], meaning)?;
    }
    to.write_str("</svg>\n")
}

fn write_box(to: &mut String, placed: &Placed) -> fmt::Result {
    let Placed { at: [x, _], size: [width, _], .. } = placed;
    rect(to, "box", placed.at, placed.size)?;
    for (index, row) in placed.rows.iter().enumerate() {
        if let Some(speed) = row.speed {
            rect(to, class(speed), [x + 2, row.y - ROW / 2], [width - 4, ROW - 2])?;
        }
        text(to, if index == 0 { "name" } else { "row" }, [x + INDENT, row.y], &row.text)?;
    }
    Ok(())
}

const fn class(speed: Speed) -> &'static str {
    match speed {
        Speed::Fast => "fast",
        Speed::Slow => "slow",
    }
}

fn rect(to: &mut String, class: &str, [x, y]: [u32; 2], [width, height]: [u32; 2]) -> fmt::Result {
    writeln!(
        to,
        r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>"#
    )
}

fn text(to: &mut String, class: &str, [x, y]: [u32; 2], text: &str) -> fmt::Result {
    let y = y + BASELINE;
    writeln!(to, r#"<text class="{class}" x="{x}" y="{y}">{}</text>"#, Escaped(text))
}

/// Text that is nothing but text: no markup, no character that XML 1.0 does not have (section 2.2), none that turns the
/// direction of what follows.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&apos;"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                f.write_char('\u{fffd}')
            }
            '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}'),
            c if c.is_control() => f.write_char('\u{fffd}'),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout;
    use super::super::model::{Interface, Label, Topology, Vdev, Vm};
    use super::*;

    fn named(name: &str) -> Topology {
        let label = Label::new([name, name]);
        let interface = Interface { label: label.clone(), function: Some(0) };
        let pages = vec![(Speed::Slow, name.to_owned())];
        let vdev = Vdev { label: label.clone(), pages, interfaces: vec![interface] };
        Topology {
            about: vec![name.to_owned()],
            functions: vec![label.clone()],
            vms: vec![Vm { label, vdevs: vec![vdev] }],
        }
    }

    #[test]
    fn hostile_names_are_text_and_change_no_element() {
        let elements = |name: &str| {
            let svg = write(&layout::draw(&named(name)));
            let all = svg.split('<').skip(1).map(|found| found.split(['>', ' ']).next().unwrap());
            (all.map(str::to_owned).collect::<Vec<_>>(), svg)
        };
        let (plain, _) = elements("plain");
        for name in [
            "</text><script>alert(1)</script>",
            "\"><image href='x'/>",
            "<!-- ]]> &amp; &#60;",
            "\0\u{1b}[31m\r\n\u{202e}\u{ffff}",
            "",
        ] {
            let (found, svg) = elements(name);
            assert_eq!(found, plain, "{name}");
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}' || c == '\u{ffff}';
            assert!(!svg.contains(bad), "{name}");
        }
        let (_, svg) = elements("a<b & \"c\"");
        assert!(svg.contains(">a&lt;b &amp; &quot;c&quot;</text>"), "{svg}");
    }

    #[test]
    fn it_is_the_same_each_time_and_names_nothing_outside() {
        let write = || write(&layout::draw(&named("name")));
        assert_eq!(write(), write());
        assert_eq!(write().matches("http").count(), 1, "the name space alone");
        assert!(write().contains("class=\"slow\"") && write().contains("prefers-color-scheme"));
    }
}
