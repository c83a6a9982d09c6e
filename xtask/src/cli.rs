//! The commands and their arguments.

use std::ffi::OsString;

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt as _,
};

use crate::e2e;
use crate::test::{Attach, Options, Step};
use crate::vm;

/// What `cargo xtask help` prints.
pub(crate) const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup [--check]
      Installs what cargo does not bring: a compiler with core for eBPF, bpf-linker and the tools that
      tests run. Says what it does; does nothing where all is there. --check only says what is missing.
  demo [ARGUMENT...]
      Two nodes and their pods in network namespaces, a real curl, and its packets hop by hop.
      The arguments go to `tracer-lab demo`: --topology NAME (an unknown NAME lists them), --service,
      --ipv6, --path (the way before there is a packet), and behind -- those of `tracer follow`. Needs root (asks sudo).
  test [FILTER] [--only STEP] [--attach tcx|clsact]
      Everything that CI runs. FILTER: only tests whose name contains it, without lint, doc tests and fuzzing.
      STEP: fmt, clippy, rules, build, unit, doc, fuzz, lab or integration, agents or chart. Those with packets need root.
  fidelity [--short] [--seed N] [--scenario NAME] [--topology NAME] [--wire NAME] [--replay DIR] [--save DIR]
      Real traffic over a wire that loses, delays, doubles and reorders, and what tracer tells of it compared
      with captures (docs/fidelity.md). --short takes two to three minutes. Needs root.
  bench [--quick] [--pairs N] [--seconds S] [--only PART]... [--state WORD]
      What observing costs, in pairs beside a bare network, a program that does nothing and tcpdump: the table of
      docs/performance.md, in some ten minutes. --quick only sees that all is counted right. Needs root.
  lint [--bless]
      The steps fmt, clippy and rules. --bless records the layouts of a new ABI_VERSION.
  fuzz [TARGET] [--seconds N]
      Runs the fuzz targets (or one) for N seconds each, 60 by default.
  vm [--kernel SERIES...] [--test FILTER] [--bless] [--prepare]
      The integration tests on stock Debian kernels in virtual machines, a column of the table for each.
      SERIES: 5.10, 6.12, 7 for the newest 7.x; by default those of Cargo.toml. FILTER: as with test, or the
      name of a test program like every_hop. --prepare only gets kernels and userland.
      A whole run compares what the machines say with docs/kernels.md; --bless writes it there.
  chart
      Makes what is generated of deploy/ anew: definitions of resources, plain manifests. Checks the chart with helm.
  image
      The static release program as an OCI archive, without a container engine.
  e2e --image IMAGE [--client-image IMAGE] [--server-image IMAGE] [--keep]
      The reference walks on the cluster that KUBECONFIG names: installs the chart and two pods in namespaces of
      their own, follows and captures what they say to each other, and removes everything. Needs kubectl and an
      administrator's rights. IMAGE: one of the agent that the nodes can pull. --keep leaves everything there.
  package
      The release program with manual pages, completions and documents, as an archive.

Exit code: 0 done, 1 failed, 2 not understood.";

const FUZZ_SECONDS: u32 = 60;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Setup { check: bool },
    Demo { arguments: Vec<OsString> },
    Fidelity { arguments: Vec<OsString> },
    Bench { arguments: Vec<OsString> },
    Test(Options),
    Lint { bless: bool },
    Fuzz { target: Option<String>, seconds: u32 },
    Vm(vm::Options),
    Package,
    Chart,
    Image,
    E2e(e2e::Options),
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = Parser::from_args(arguments);
    match parser.next()? {
        Some(Value(command)) => match command.string()?.as_str() {
            "help" => Ok(Command::Help),
            "setup" => setup(&mut parser),
            "demo" => demo(&mut parser),
            "fidelity" => fidelity(&mut parser),
            "bench" => bench(&mut parser),
            "test" => test(&mut parser),
            "lint" => lint(&mut parser),
            "fuzz" => fuzz(&mut parser),
            "vm" => vm(&mut parser),
            "package" => nothing_more(&mut parser, Command::Package),
            "chart" => nothing_more(&mut parser, Command::Chart),
            "e2e" => e2e(&mut parser),
            "image" => nothing_more(&mut parser, Command::Image),
            other => Err(format!("no such command: {other}").into()),
        },
        Some(Long("help") | Short('h')) => Ok(Command::Help),
        Some(other) => Err(other.unexpected()),
        None => Err("no command".into()),
    }
}

fn setup(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    let mut check = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("check") => check = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Setup { check })
}

/// The lab judges these itself: it knows its topologies.
fn demo(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    for_another(parser, |arguments| Command::Demo { arguments })
}

/// The bench judges these itself: it knows its scenarios.
fn fidelity(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    for_another(parser, |arguments| Command::Fidelity { arguments })
}

/// As [`fidelity`].
fn bench(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    for_another(parser, |arguments| Command::Bench { arguments })
}

fn for_another(
    parser: &mut Parser,
    command: impl FnOnce(Vec<OsString>) -> Command,
) -> Result<Command, lexopt::Error> {
    let arguments = parser.raw_args()?.collect::<Vec<_>>();
    match arguments.first().and_then(|first| first.to_str()) {
        Some("--help" | "-h") => Ok(Command::Help),
        _ => Ok(command(arguments)),
    }
}

fn test(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => options.only = Some(parser.value()?.parse_with(Step::parse)?),
            Long("attach") => options.attach = Some(parser.value()?.parse_with(Attach::parse)?),
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(filter) if options.filter.is_none() => options.filter = Some(filter.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Test(options))
}

fn lint(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    let mut bless = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("bless") => bless = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Lint { bless })
}

fn e2e(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    let mut options = e2e::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("image") => options.image = parser.value()?.string()?,
            Long("client-image") => options.client_image = Some(parser.value()?.string()?),
            Long("server-image") => options.server_image = Some(parser.value()?.string()?),
            Long("keep") => options.keep = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    if options.image.is_empty() {
        return Err(
            "--image: which image of the agent can the nodes pull? (`cargo xtask image` makes one)".into()
        );
    }
    Ok(Command::E2e(options))
}

/// Of a command that takes no arguments.
fn nothing_more(parser: &mut Parser, command: Command) -> Result<Command, lexopt::Error> {
    match parser.next()? {
        None => Ok(command),
        Some(Long("help") | Short('h')) => Ok(Command::Help),
        Some(other) => Err(other.unexpected()),
    }
}

fn fuzz(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    let (mut target, mut seconds) = (None, FUZZ_SECONDS);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => seconds = parser.value()?.parse()?,
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(name) if target.is_none() => target = Some(name.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Fuzz { target, seconds })
}

fn vm(parser: &mut Parser) -> Result<Command, lexopt::Error> {
    let mut options = vm::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("kernel") => {
                for series in parser.values()? {
                    options.kernels.push(series.string()?);
                }
            }
            Long("bless") => options.bless = true,
            Long("prepare") => options.prepare = true,
            Long("test") => options.filter = Some(parser.value()?.string()?),
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Vm(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, lexopt::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn demo_hands_on_its_arguments_as_they_are() {
        let command = parsed("demo --topology cilium-host-routing -- --count 3 -o json").unwrap();

        let arguments = ["--topology", "cilium-host-routing", "--", "--count", "3", "-o", "json"];
        assert_eq!(command, Command::Demo { arguments: arguments.map(OsString::from).to_vec() });
    }

    #[test]
    fn test_takes_a_filter_a_step_and_a_mechanism() {
        let command = parsed("test nat --only integration --attach clsact").unwrap();

        let options = Options {
            filter: Some("nat".to_owned()),
            only: Some(Step::Integration),
            attach: Some(Attach::Clsact),
        };
        assert_eq!(command, Command::Test(options));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for line in [
            "",
            "build",
            "setup --force",
            "test a b",
            "test --only everything",
            "fuzz --seconds soon",
            "e2e",
            "e2e --image",
        ] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }
}
