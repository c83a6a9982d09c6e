//! `tracer points`: what a follow would observe and who else is on those hooks. Attaches nothing.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write as _};

use super::observation::check_preflight;
use super::wanted::resolve;
use crate::agent::observer::is_held_by_netkit;
use crate::app::{Failure, notice};
use crate::cli::{Format, PointsArgs, SelectionArgs};
use crate::host::kernel::{Feature, Kernel};
use crate::host::netns::NetnsId;
use crate::host::plan::{PlannedDevice, Scope, plan_points};
use crate::host::programs::{self, DevicePrograms};
use crate::host::survey::ProblemKind;
use crate::node::site::Site;
use crate::output::points::{Attachment, DEFAULT_WIDTH, PointRow, write_json, write_text};
use crate::trajectory::model::Direction;

/// Prints the points of a follow, or of all pods on this machine.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &PointsArgs) -> Result<(), Failure> {
    let kernel = check_preflight()?;
    let site = Site::open(args.source.inventory.inventory.clone())?;
    let scope = scope(args, &site)?;
    let planned = plan_points(site.survey(), &scope);
    let rows = rows(&planned, &kernel);
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        Format::Text => write_text(&mut out, &rows, &kernel, terminal_width())?,
        Format::Json => write_json(&mut out, &rows, &kernel)?,
    }
    out.flush()?;
    tell_problems(&site, &scope);
    Ok(())
}

/// Both directions of all devices, with everybody's programs. What cannot be read is said and left out.
pub(crate) fn rows(planned: &[PlannedDevice], kernel: &Kernel) -> Vec<PointRow> {
    let programs = read_programs(planned);
    let mut rows = Vec::with_capacity(planned.len() * 2);
    for device in planned {
        let Some(on_device) = programs.get(&device.key()) else { continue };
        for direction in [Direction::Ingress, Direction::Egress] {
            let wanted = match direction {
                _ if !kernel.has(Feature::Tcx) => Attachment::Clsact,
                Direction::Ingress if is_held_by_netkit(device, on_device) => Attachment::Netkit,
                _ => Attachment::Tcx,
            };
            rows.push(PointRow::new(device, direction, on_device, wanted));
        }
    }
    rows
}

/// What could not be found. That most of a cluster is on other machines is normal, and said in one line.
fn tell_problems(site: &Site, scope: &Scope) {
    let (mut pods, mut nodes) = (0, 0);
    for problem in &site.survey().problems {
        let asked_for = match (&problem.pod, &scope.pods) {
            (Some(pod), Some(asked)) => asked.contains(&**pod),
            _ => false,
        };
        match (&problem.pod, problem.kind) {
            _ if asked_for => notice(&format!("note: {}", problem.sentence)),
            (Some(_), ProblemKind::Elsewhere) => pods += 1,
            (None, ProblemKind::Elsewhere) => nodes += 1,
            (Some(_), _) if scope.pods.is_some() => {}
            _ => notice(&format!("note: {}", problem.sentence)),
        }
    }
    if scope.pods.is_none() && nodes > 0 {
        notice(&format!("note: {nodes} nodes and {pods} pods of the inventory are on other machines"));
    }
}

fn scope(args: &PointsArgs, site: &Site) -> Result<Scope, Failure> {
    let Some(pod) = &args.pod else { return Ok(Scope::everything()) };
    let selection = SelectionArgs {
        pod: Some(pod.clone()),
        selector: None,
        to: args.to.clone(),
        namespace: args.namespace.clone(),
        ports: Vec::new(),
        protocol: None,
    };
    Ok(site.names().with(|inventory| resolve(inventory, &selection))?.scope())
}

fn read_programs(planned: &[PlannedDevice]) -> HashMap<(NetnsId, u32), DevicePrograms> {
    let mut found = HashMap::new();
    for device in planned {
        match programs::of_device(&device.netns, device.link.ifindex) {
            Ok(programs) => drop(found.insert(device.key(), programs)),
            Err(error) => notice(&format!("warning: {} on node {}: {error}", device.link.name, device.node)),
        }
    }
    found
}

/// Columns of the terminal, or a usual number where the output is none.
fn terminal_width() -> u16 {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(DEFAULT_WIDTH, |size| size.ws_col.max(60))
}
