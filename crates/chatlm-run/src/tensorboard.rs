//! The metrics and samples of a run as a TensorBoard event file in the run folder.
//!
//! The file is a view of `metrics.jsonl` and `samples.jsonl`: each process that goes on with a run writes a
//! new one from what these hold after they were cut back, and removes the one before, so that no step stands
//! there twice whatever a dead process left. Its first event is a session's start at step 0, at which a
//! TensorBoard that is watching throws away what it knew.
//!
//! An event file is records (length, its CRC-32C, bytes, their CRC-32C, both masked) of protobuf messages
//! (tensorflow's `event.proto`, `summary.proto`, `tensor.proto`). The crates that write them are no longer
//! kept (tensorboard-rs) or bring a hundred others (tfrecord); the messages that are needed are the few
//! structs below, encoded by prost.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use chatlm_job::{Error, Result};
use prost::Message;
use serde_json::Value;

use crate::journal::each_line;

/// TensorBoard reads `events.out.tfevents.TIME.HOST`, in the order of their names.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".chatlm";

/// What says where a line belongs, and is no measure.
const PLACES: [&str; 5] = ["step", "total_steps", "tokens", "seconds", "time"];

/// An event file that is being appended to.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

/// Whether a run folder's file is one of ours.
pub(crate) fn is_event_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

impl EventFile {
    /// A new file with all that the journals hold; an earlier one goes.
    pub(crate) fn open(folder: &Path, metrics: &Path, samples: &Path) -> Result<Self> {
        let before: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(|e| Error::io(&e, "read", folder))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_event_file(path))
            .collect();
        let path = folder.join(format!("{PREFIX}{:010}{SUFFIX}", next_time(&before)));
        let file = File::create(&path).map_err(|e| Error::io(&e, "write", &path))?;
        let mut events = Self { path, file };
        events.write(&Event {
            wall_time: now(),
            file_version: Some("brain.Event:2".to_owned()),
            ..Event::default()
        })?;
        events.write(&Event {
            wall_time: now(),
            session_log: Some(SessionLog { status: START }),
            ..Event::default()
        })?;
        each_line(metrics, |line| events.metrics(line))?;
        each_line(samples, |line| events.sample(line))?;
        for path in before {
            fs::remove_file(&path).map_err(|e| Error::io(&e, "remove", &path))?;
        }
        Ok(events)
    }

    /// The figures of a line of `metrics.jsonl`, named as transformers' trainer names them there.
    pub(crate) fn metrics(&mut self, line: &Value) -> Result<()> {
        let values = line
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !PLACES.contains(&name.as_str()))
            .filter_map(|(name, value)| Some((name, value.as_f64()?)))
            .filter(|(name, _)| name.as_str() != "epoch" || line.get("loss").is_some())
            .map(|(name, value)| SummaryValue {
                tag: match name.strip_prefix("eval_") {
                    Some(name) => format!("eval/{name}"),
                    None => format!("train/{name}"),
                },
                simple_value: Some(value as f32),
                ..SummaryValue::default()
            })
            .collect();
        self.summary(line, values)
    }

    /// A line of `samples.jsonl` as text.
    pub(crate) fn sample(&mut self, line: &Value) -> Result<()> {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        // Indented, Markdown shows it as it is.
        let body = ["prompt", "response", "label"]
            .map(|name| {
                let lines: Vec<String> = text(name).lines().map(|l| format!("    {l}\n")).collect();
                format!("{name}:\n\n{}\n", lines.concat())
            })
            .concat();
        let head: String = text("prompt").chars().take(40).collect();
        let value = SummaryValue {
            tag: format!("samples/{}", head.replace(['\n', '/'], " ")),
            metadata: Some(SummaryMetadata {
                plugin_data: Some(PluginData {
                    plugin_name: "text".to_owned(),
                }),
                data_class: DATA_CLASS_TENSOR,
            }),
            tensor: Some(TensorProto {
                dtype: DT_STRING,
                tensor_shape: Some(TensorShape {
                    dim: vec![Dimension { size: 1 }],
                }),
                string_val: vec![body.into_bytes()],
            }),
            ..SummaryValue::default()
        };
        self.summary(line, vec![value])
    }

    fn summary(&mut self, line: &Value, values: Vec<SummaryValue>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.write(&Event {
            wall_time: line["time"].as_f64().unwrap_or_else(now),
            step: line["step"].as_i64().unwrap_or_default(),
            summary: Some(Summary { value: values }),
            ..Event::default()
        })
    }

    /// A record in one write, so that a reader meets few torn ones.
    fn write(&mut self, event: &Event) -> Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked(&length));
        record.extend_from_slice(&data);
        record.extend_from_slice(&masked(&data));
        self.file
            .write_all(&record)
            .map_err(|e| Error::io(&e, "write", &self.path))
    }
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Now in seconds, but after the times of these files: names must sort in the order they were made.
fn next_time(before: &[PathBuf]) -> u64 {
    let times = before.iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        let time = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        time.parse::<u64>().ok()
    });
    times.fold(now() as u64, |next, time| next.max(time + 1))
}

const START: i32 = 1;
const DT_STRING: i32 = 7;
const DATA_CLASS_TENSOR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
    #[prost(int32, tag = "4")]
    data_class: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    /// The whole records of the one event file of a folder.
    fn events(folder: &Path) -> Vec<Event> {
        let files: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| is_event_file(path))
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let bytes = fs::read(&files[0]).unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let (check, after) = after.split_at(4);
            assert_eq!(check, masked(length));
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (data, after) = after.split_at(size);
            assert_eq!(after[..4], masked(data));
            found.push(Event::decode(data).unwrap());
            rest = &after[4..];
        }
        found
    }

    #[test]
    fn a_record_is_framed_as_tensorflow_frames_it() {
        // From tensorboard's own masked_crc32c.
        assert_eq!(masked(&24_u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_new_file_holds_what_the_journals_hold_and_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (metrics, samples) = (at("metrics.jsonl"), at("samples.jsonl"));
        let first = json!({"step": 1, "epoch": 0.5, "loss": 2.0, "time": 5.0, "tokens": 9});
        fs::write(&metrics, format!("{first}\n{{\"step\": 2, \"lo")).unwrap();
        fs::write(&samples, "").unwrap();
        let file = EventFile::open(folder.path(), &metrics, &samples).unwrap();
        // What a killed process leaves: a record that breaks off.
        fs::OpenOptions::new()
            .append(true)
            .open(&file.path)
            .unwrap()
            .write_all(&[7, 0, 0])
            .unwrap();
        let mut file = EventFile::open(folder.path(), &metrics, &samples).unwrap();
        file.metrics(
            &json!({"step": 2, "epoch": 1.0, "eval_loss": 1.5, "eval_rewards/margins": 1}),
        )
        .unwrap();
        file.sample(&json!({"step": 2, "prompt": "a/b", "response": "<b>\nc", "label": ""}))
            .unwrap();
        let found = events(folder.path());
        assert_eq!(found[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!(found[1].session_log, Some(SessionLog { status: START }));
        let told: Vec<String> = found[2..]
            .iter()
            .flat_map(|event| {
                let values = &event.summary.as_ref().unwrap().value;
                values
                    .iter()
                    .map(|v| format!("{} {} {:?}", event.step, v.tag, v.simple_value))
            })
            .collect();
        assert_eq!(
            told,
            [
                "1 train/epoch Some(0.5)",
                "1 train/loss Some(2.0)",
                "2 eval/loss Some(1.5)",
                "2 eval/rewards/margins Some(1.0)",
                "2 samples/a b None",
            ]
        );
        let text = found[4].summary.as_ref().unwrap().value[0].tensor.clone();
        let text = String::from_utf8(text.unwrap().string_val[0].clone()).unwrap();
        assert!(text.contains("    <b>\n    c\n"), "{text}");
    }
}
