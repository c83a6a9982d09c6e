//! The figures of requests and answers.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::output::histogram::Histogram;
use crate::output::json::kind;
use crate::output::text::duration;
use crate::trajectory::exchange::{Ending, Exchange, Outcome, Turn};

#[derive(Default)]
struct Figures {
    count: u64,
    answered: u64,
    total: Histogram,
    /// Sums over the exchanges of which both are known, nanoseconds.
    total_ns: u128,
    application_ns: u128,
}

/// See the module.
#[derive(Default)]
pub(super) struct ExchangeFigures {
    kinds: BTreeMap<&'static str, Figures>,
    evicted: u64,
    left_out: u64,
}

impl ExchangeFigures {
    /// Takes in an exchange that has ended. One without a request (the end of a connection alone) is not counted.
    pub(super) fn add(&mut self, exchange: &Exchange) {
        self.evicted += u64::from(exchange.ending == Some(Ending::Evicted));
        self.left_out += exchange.left_out;
        if exchange.outcome == Outcome::NoRequest {
            return;
        }
        let figures = self.kinds.entry(kind(exchange.kind)).or_default();
        figures.count += 1;
        figures.answered += u64::from(exchange.outcome == Outcome::Answered);
        let (Outcome::Answered, Ok(times)) = (exchange.outcome, &exchange.times) else { return };
        figures.total.record(times.total_ns);
        if let Ok(split) = &times.split
            && let Turn::Pod(_) = split.turn
        {
            figures.total_ns += u128::from(times.total_ns);
            figures.application_ns += u128::from(split.stay_ns);
        }
    }

    pub(super) fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        if !self.kinds.is_empty() {
            writeln!(out)?;
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(["exchanges", "count", "answered", "p50", "p90", "p99", "max", "application"]);
            for (kind, figures) in &self.kinds {
                let cell = |value: Option<u64>| value.map_or_else(String::new, duration);
                let share = figures.application_share().map(|share| format!("{:.0} %", share * 100.0));
                table.add_row([
                    (*kind).to_owned(),
                    figures.count.to_string(),
                    figures.answered.to_string(),
                    cell(figures.total.percentile(50)),
                    cell(figures.total.percentile(90)),
                    cell(figures.total.percentile(99)),
                    cell(figures.total.max()),
                    share.unwrap_or_default(),
                ]);
            }
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            for line in table.lines() {
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        if self.evicted > 0 {
            writeln!(out, "{} exchanges were ended early: memory was needed for others", self.evicted)?;
        }
        if self.left_out > 0 {
            writeln!(out, "{} packets were left out of exchanges that are too long", self.left_out)?;
        }
        Ok(())
    }

    /// For JSON.
    pub(super) fn line(&self) -> ExchangesLine {
        ExchangesLine {
            kinds: self.kinds.iter().map(|(kind, figures)| figures.line(kind)).collect(),
            evicted: self.evicted,
            left_out: self.left_out,
        }
    }
}

impl Figures {
    /// What part of the time until the answer the application took, of the exchanges where that is known.
    fn application_share(&self) -> Option<f64> {
        (self.total_ns > 0).then(|| self.application_ns as f64 / self.total_ns as f64)
    }

    fn line(&self, kind: &'static str) -> KindLine {
        KindLine {
            kind,
            count: self.count,
            answered: self.answered,
            p50_ns: self.total.percentile(50),
            p90_ns: self.total.percentile(90),
            p99_ns: self.total.percentile(99),
            max_ns: self.total.max(),
            application_share: self.application_share(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ExchangesLine {
    kinds: Vec<KindLine>,
    evicted: u64,
    left_out: u64,
}

#[derive(Serialize)]
struct KindLine {
    kind: &'static str,
    count: u64,
    answered: u64,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    max_ns: Option<u64>,
    application_share: Option<f64>,
}
