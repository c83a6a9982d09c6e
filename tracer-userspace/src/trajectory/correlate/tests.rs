mod datapaths;
mod dropped;
mod encrypted;
mod identity;
mod verdicts;
