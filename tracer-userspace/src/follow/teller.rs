//! (temp)
use crate::app::Failure;
use crate::cli::FollowArgs;
use super::site::Names;
use crate::trajectory::model::Trajectory;
pub struct Teller { told: u64, count: Option<u64> }
impl Teller {
    pub fn new(args: &FollowArgs, _names: Names) -> Self { Self { told: 0, count: args.count } }
    pub fn told(&self) -> u64 { self.told }
    pub fn is_enough(&self) -> bool { self.count.is_some_and(|c| self.told >= c) }
    pub fn tell(&mut self, t: &Trajectory) -> Result<(), Failure> { self.told += 1; 
        let h: Vec<String> = t.hops.iter().map(|h| format!("{}/{}:{:?}x{}", h.point.node, h.point.device, h.point.direction, h.segments)).collect();
        println!("#{} p{} {}->{} {} {:?} {:?} exp {}", t.id, t.hops[0].packet.protocol, t.hops[0].packet.source, t.hops[0].packet.destination, h.join(" | "), t.verdict, t.missing, t.expected_hops); Ok(()) }
    pub fn flush(&mut self) -> Result<(), Failure> { Ok(()) }
    pub fn summarize(&mut self, o: &crate::agent::programs::Outcomes, l: &crate::agent::observer::Losses, c: &crate::trajectory::correlate::Counters) -> Result<(), Failure> { println!("{o:?} {l:?} {c:?}"); Ok(()) }
}
