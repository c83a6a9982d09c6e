mod datapaths;
mod encrypted;
mod identity;
mod relations;
mod verdicts;
