//! `tracer doctor`: whether a follow will work, before the network is blamed.
//!
//! | module | holds |
//! |---|---|
//! | `cluster` | asking the API server and every agent |
//! | [`findings`] | pure: what the answers mean |

mod cluster;
pub mod findings;

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::json;

use self::findings::{Finding, Level, NodeAnswer, of_node};
use crate::agent::preflight;
use crate::app::{Failure, wants_color};
use crate::cli::{DoctorArgs, Format};
use crate::follow::run::block_on;
use crate::node::site::Site;
use crate::serve::describe::{Describer, complete};
use crate::serve::subscribers::Identity;

/// Prints what was found.
///
/// # Errors
/// [`Failure`], also where a follow will not work.
pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = match &args.inventory {
        Some(path) => of_this_machine(path),
        None => block_on(cluster::examine(args))?,
    };
    tell(&findings, args)?;
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 problem: a follow will not see all that it should".to_owned())),
        _ => Err(Failure::Failed(format!("{problems} problems: a follow will not see all that it should"))),
    }
}

/// What an agent would say of this machine, as one of its nodes.
fn of_this_machine(inventory: &Path) -> Vec<Finding> {
    let asked = || -> Result<NodeAnswer, String> {
        let kernel = preflight::check().map_err(|error| error.to_string())?;
        let site = Site::open(inventory.to_owned()).map_err(|error| error.to_string())?;
        let identity =
            Identity { node: String::new(), kernel_release: kernel.release.clone(), boot_id: String::new() };
        let knows_drops = crate::node::machine::drop_reasons(&kernel).is_some();
        let mut description = complete(Describer::new(&kernel).outline(&identity), site.survey(), &kernel);
        description.knows_drops = knows_drops;
        description.pods = u32::try_from(description.places.len()).unwrap_or(u32::MAX);
        Ok(NodeAnswer { description, clock: None })
    };
    of_node("this machine", &asked())
}

fn tell(findings: &[Finding], args: &DoctorArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if args.output == Format::Json {
        let problems = findings.iter().any(|finding| finding.level == Level::Problem);
        writeln!(out, "{}", json!({ "type": "doctor", "works": !problems, "findings": findings }))?;
        return Ok(());
    }
    let color = wants_color(args.color);
    for finding in findings {
        writeln!(out, "{}", finding.line(color))?;
    }
    Ok(())
}
