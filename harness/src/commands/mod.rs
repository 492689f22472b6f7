//! One file a command.

pub mod calibrate;
pub mod compare;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod fetch;
pub mod generate;
pub mod heatmap;
pub mod history;
pub mod list;
pub mod paper;
pub mod report;
pub mod run;
pub mod score;
pub mod table;
pub mod verify;
