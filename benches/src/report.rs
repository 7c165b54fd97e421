//! The results: stored as JSON, written as a table, drawn as bars.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub title: String,
    pub findings: Vec<Finding>,
    pub series: Vec<Series>,
}

/// One measured value and its target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub what: String,
    pub value: String,
    pub to_reach: String,
    /// None where there is no target.
    pub reached: Option<bool>,
}

/// The values of all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub unit: String,
    pub rounds: Vec<f64>,
}

impl Series {
    pub fn new(name: impl Into<String>, unit: &str, rounds: Vec<f64>) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), rounds }
    }

    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }
}

impl Finding {
    /// A value without a target.
    pub fn info(what: impl Into<String>, value: impl Into<String>) -> Self {
        Self { what: what.into(), value: value.into(), to_reach: String::new(), reached: None }
    }

    /// A value with a lower limit.
    pub fn at_least(what: impl Into<String>, value: f64, least: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            value: format!("{} {unit}", rounded(value)).trim_end().to_owned(),
            to_reach: format!("≥ {} {unit}", rounded(least)).trim_end().to_owned(),
            reached: Some(value >= least),
        }
    }

    /// A value with an upper limit.
    pub fn at_most(what: impl Into<String>, value: f64, most: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            value: format!("{} {unit}", rounded(value)).trim_end().to_owned(),
            to_reach: format!("≤ {} {unit}", rounded(most)).trim_end().to_owned(),
            reached: Some(value <= most),
        }
    }
}

pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// The median of the ratios of two series, round by round.
pub fn ratio(of: &Series, to: &Series) -> f64 {
    median(&of.rounds.iter().zip(&to.rounds).map(|(of, to)| of / to).collect::<Vec<_>>())
}

/// The smallest value that is not exceeded by this share of the numbers, such as 0.99.
pub fn percentile(numbers: &mut [f64], share: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((numbers.len() as f64 * share).ceil() as usize).clamp(1, numbers.len().max(1)) - 1;
    numbers.get(index).copied().unwrap_or(f64::NAN)
}

pub fn rounded(number: f64) -> String {
    match number.abs() {
        large if large >= 1000.0 => {
            let whole = format!("{number:.0}");
            let (sign, digits) = whole.strip_prefix('-').map_or(("", whole.as_str()), |digits| ("-", digits));
            let grouped: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
            format!("{sign}{}", grouped.join(","))
        }
        large if large >= 100.0 => format!("{number:.0}"),
        large if large >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// All figures by name. Those that are not measured again stay as they are.
pub struct Report {
    figures: BTreeMap<String, Figure>,
    folder: PathBuf,
    is_dry_run: bool,
}

impl Report {
    pub fn open(folder: &Path, is_dry_run: bool) -> anyhow::Result<Self> {
        let figures = match std::fs::read(folder.join("figures.json")) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { figures, folder: folder.to_owned(), is_dry_run })
    }

    /// Prints a figure and, unless this is a dry run, writes it.
    pub fn add(&mut self, name: &str, figure: Figure) -> anyhow::Result<()> {
        println!("\n{name}  {}", figure.title);
        for Finding { what, value, to_reach, reached } in &figure.findings {
            let verdict = match reached {
                Some(true) => "  reached",
                Some(false) => "  MISSED",
                None => "",
            };
            println!("    {what}: {value}   {to_reach}{verdict}");
        }
        for series in &figure.series {
            println!("    {}: {} {}", series.name, rounded(series.median()), series.unit);
        }
        if self.is_dry_run {
            return Ok(());
        }
        std::fs::create_dir_all(&self.folder)?;
        if !figure.series.is_empty() {
            draw(&figure, &self.folder.join(chart(name)))?;
        }
        self.figures.insert(name.to_owned(), figure);
        std::fs::write(self.folder.join("figures.json"), serde_json::to_vec_pretty(&self.figures)?)?;
        Ok(())
    }

    /// Writes the table and the charts into a document, between their markers.
    pub fn write_document(&self, document: &Path) -> anyhow::Result<()> {
        if self.is_dry_run {
            return Ok(());
        }
        let text = std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
        let text = replace_part(&text, "figures", &self.table())?;
        let folder = document.parent().and_then(|parent| self.folder.strip_prefix(parent).ok()).unwrap_or(&self.folder);
        let text = replace_part(&text, "charts", &self.charts(folder))?;
        Ok(std::fs::write(document, text)?)
    }

    fn charts(&self, folder: &Path) -> String {
        let drawn = self.figures.iter().filter(|(_, figure)| !figure.series.is_empty());
        drawn.fold(String::new(), |mut charts, (name, _)| {
            // Writing to a string cannot fail.
            let _ = writeln!(charts, "![{name}]({})", folder.join(chart(name)).display());
            charts
        })
    }

    fn table(&self) -> String {
        let mut table = String::from("| figure | what | measured | target | reached |\n|---|---|--:|--:|---|\n");
        for (name, figure) in &self.figures {
            for (index, Finding { what, value, to_reach, reached }) in figure.findings.iter().enumerate() {
                let name = if index == 0 { format!("**{name}** {}", figure.title) } else { String::new() };
                let verdict = match reached {
                    Some(true) => "yes",
                    Some(false) => "**no**",
                    None => "",
                };
                // Writing to a string cannot fail.
                let _ = writeln!(table, "| {name} | {what} | {value} | {to_reach} | {verdict} |");
            }
        }
        table
    }
}

fn chart(name: &str) -> String {
    format!("{}.svg", name.to_lowercase())
}

/// Replaces what stands between the two markers of a part.
fn replace_part(document: &str, part: &str, text: &str) -> anyhow::Result<String> {
    let [begin, end] = ["begin", "end"].map(|edge| format!("<!-- {part}: {edge} -->"));
    let (before, rest) = document.split_once(&begin).with_context(|| format!("no `{begin}`"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no `{end}`"))?;
    Ok(format!("{before}{begin}\n\n{text}\n{end}{after}"))
}

/// Draws a bar for the median of each series, and a line from its smallest to its largest round.
fn draw(figure: &Figure, path: &Path) -> anyhow::Result<()> {
    let units: Vec<_> = figure.series.iter().fold(Vec::new(), |mut units: Vec<&str>, series| {
        if !units.contains(&series.unit.as_str()) {
            units.push(&series.unit);
        }
        units
    });
    let row_height = 26;
    let rows = i32::try_from(figure.series.len() + units.len())?;
    let height = u32::try_from(rows * row_height + 16)?;
    let root = SVGBackend::new(path, (760, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (label_x, bar_x, bar_width) = (10, 250, 380.0);
    let mut y = 8;
    for unit in units {
        let of_unit: Vec<_> = figure.series.iter().filter(|series| series.unit == unit).collect();
        let most = of_unit.iter().flat_map(|series| &series.rounds).copied().fold(f64::MIN_POSITIVE, f64::max);
        root.draw(&Text::new(
            unit.to_owned(),
            (label_x, y + 5),
            ("sans-serif", 13).into_font().color(&BLACK.mix(0.6)),
        ))?;
        y += row_height;
        for series in of_unit {
            #[expect(clippy::cast_possible_truncation, reason = "a coordinate")]
            let at = |value: f64| bar_x + (value / most * bar_width) as i32;
            let is_service = series.name.starts_with("service");
            let color = if is_service { RGBColor(37, 99, 235) } else { RGBColor(148, 163, 184) };
            let median = series.median();
            root.draw(&Rectangle::new([(bar_x, y + 3), (at(median), y + row_height - 6)], color.filled()))?;
            let least = series.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let greatest = series.rounds.iter().copied().fold(0.0, f64::max);
            let middle = y + row_height / 2 - 2;
            root.draw(&PathElement::new([(at(least), middle), (at(greatest), middle)], BLACK.mix(0.7)))?;
            root.draw(&Text::new(series.name.clone(), (label_x, y + 5), ("sans-serif", 14)))?;
            root.draw(&Text::new(rounded(median), (at(greatest) + 8, y + 5), ("sans-serif", 14)))?;
            y += row_height;
        }
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_the_markers_is_replaced() {
        let document = "a\n<!-- table: begin -->\nold\n<!-- table: end -->\nb";
        let replaced = replace_part(document, "table", "new\n").unwrap();
        assert_eq!(replaced, "a\n<!-- table: begin -->\n\nnew\n\n<!-- table: end -->\nb");
        assert!(replace_part(document, "charts", "").is_err());
    }

    #[test]
    fn medians_ratios_and_percentiles() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        let series = |rounds: &[f64]| Series::new("a", "b", rounds.to_vec());
        assert!((ratio(&series(&[2.0, 9.0, 4.0]), &series(&[1.0, 3.0, 2.0])) - 2.0).abs() < 1e-9);
        assert!((percentile(&mut [5.0, 1.0, 3.0, 2.0], 0.99) - 5.0).abs() < 1e-9);
        assert_eq!(rounded(1_234_567.8), "1,234,568");
        assert_eq!(rounded(12.345), "12.3");
    }
}
