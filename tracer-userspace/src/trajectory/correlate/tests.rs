mod datapaths;
mod identity;
mod verdicts;
