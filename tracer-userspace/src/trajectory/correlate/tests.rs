mod datapaths;
mod dropped;
mod encrypted;
mod identity;
mod relations;
mod verdicts;
