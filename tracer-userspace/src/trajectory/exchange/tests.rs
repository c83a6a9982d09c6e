//! What must hold of exchanges, with hand-built walks.

mod bounds;
mod datagrams;
mod tcp;
mod times;
