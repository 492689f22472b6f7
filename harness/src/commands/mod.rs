//! One file a command.

pub(crate) mod calibrate;
pub(crate) mod compare;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod fetch;
pub(crate) mod generate;
pub(crate) mod heatmap;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod paper;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod score;
pub(crate) mod slurm;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod verify;
