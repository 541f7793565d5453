#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write;

use chatlm_job::{Code, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::input::InputOptions;
use crate::rows::Rows;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

type Packer = fn(&[u8]) -> Vec<u8>;
const PACKERS: [(&str, Packer); 2] = [("gz", gzip), ("zst", zstd)];

/// The values of all rows, each row's joined.
fn read(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let paths = [path.display().to_string()];
    Rows::open(&paths, &InputOptions::default())?
        .map(|row| {
            let row = row?;
            let values = row.fields.values().map(|value| value.as_str().unwrap());
            Ok(values.collect::<Vec<_>>().join("|"))
        })
        .collect()
}

#[test]
fn every_format_is_read_as_if_it_were_not_packed() {
    let plain = [
        (
            "txt",
            "床前明月光\n疑是地上霜\n",
            ["床前明月光", "疑是地上霜"],
        ),
        (
            "jsonl",
            "{\"a\":\"问\",\"b\":\"答\"}\n{\"a\":\"1\",\"b\":\"2\"}\n",
            ["问|答", "1|2"],
        ),
        (
            "json",
            "[{\"a\":\"问\",\"b\":\"答\"},\n{\"a\":\"1\",\"b\":\"2\"}]",
            ["问|答", "1|2"],
        ),
        ("csv", "a,b\n问,答\n\"1\",2\n", ["问|答", "1|2"]),
    ];
    for (ending, text, rows) in plain {
        for (packing, pack) in PACKERS {
            let name = format!("x.{ending}.{packing}");
            assert_eq!(read(&name, &pack(text.as_bytes())).unwrap(), rows, "{name}");
            // The content tells the packing, not the name.
            let name = format!("x.{ending}");
            assert_eq!(read(&name, &pack(text.as_bytes())).unwrap(), rows);
            assert_eq!(
                read(&format!("{name}.{packing}"), text.as_bytes()).unwrap(),
                rows
            );
        }
    }
}

#[test]
fn members_that_follow_each_other_are_one_text() {
    for (packing, pack) in PACKERS {
        let (first, second) = (pack("床前明".as_bytes()), pack("月光\n疑是\n".as_bytes()));
        let mut both = [first, second].concat();
        let name = format!("x.txt.{packing}");
        assert_eq!(read(&name, &both).unwrap(), ["床前明月光", "疑是"]);
        if packing == "gz" {
            both.extend([0; 700]);
            assert_eq!(read(&name, &both).unwrap(), ["床前明月光", "疑是"]);
        }
        both.extend(b"behind");
        let error = read(&name, &both).unwrap_err();
        assert_eq!(error.code(), Code::InputFormat, "{error}");
    }
}

#[test]
fn what_is_cut_short_or_broken_is_named() {
    let lines: Vec<String> = (0..40_000)
        .map(|n| format!("第{n}行，{}\n", n * n))
        .collect();
    let text = lines.concat();
    for (packing, pack) in PACKERS {
        let packed = pack(text.as_bytes());
        let name = format!("x.txt.{packing}");
        assert_eq!(read(&name, &packed).unwrap().len(), 40_000);
        for end in [6, 30, packed.len() / 2, packed.len() - 3] {
            let error = read(&name, &packed[..end]).unwrap_err();
            assert_eq!(error.code(), Code::InputFormat, "{error}");
            assert!(error.message().contains("cut short"), "{end}: {error}");
            assert!(error.message().contains(&name), "{error}");
        }
        let mut broken = packed.clone();
        for byte in &mut broken[packed.len() / 2..packed.len() / 2 + 64] {
            *byte ^= 0x5a;
        }
        let error = read(&name, &broken).unwrap_err();
        assert_eq!(error.code(), Code::InputFormat, "{error}");
        assert!(error.message().contains(&name), "{error}");
        let mut headless = packed.clone();
        headless[..4].fill(0xff);
        let error = read(&name, &headless).unwrap_err();
        assert!(error.message().contains("not by its content"), "{error}");
    }
}

#[test]
fn encodings_are_told_inside() {
    let text = "{\"prompt\": \"高血压患者能吃党参吗？\"}\n".repeat(3);
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (packing, pack) in PACKERS {
        let name = format!("x.jsonl.{packing}");
        let expected = ["高血压患者能吃党参吗？"; 3];
        assert_eq!(
            read(&name, &pack(&encoding_rs::GB18030.encode(&text).0)).unwrap(),
            expected
        );
        assert_eq!(read(&name, &pack(&utf16)).unwrap(), expected);
    }
}

#[test]
fn other_packings_are_refused_by_name() {
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, what) in [
        (b"PK\x03\x04and so on".to_vec(), "a zip archive"),
        (b"\xfd7zXZ\0and so on".to_vec(), "packed by xz"),
        (b"BZh91AY&SYand so on".to_vec(), "packed by bzip2"),
        (tar.clone(), "a tar archive"),
        (gzip(&tar), "a tar archive"),
        (gzip(b"PAR1and so on"), "parquet"),
    ] {
        let error = read("x.txt", &bytes).unwrap_err();
        assert_eq!(error.code(), Code::InputFormat, "{error}");
        assert!(error.message().contains(what), "{error}");
    }
}

#[test]
fn a_folder_is_searched_for_packed_files_too() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "a.jsonl.gz",
        "b.txt.zst",
        "c.csv.GZ",
        "d.gz",
        "e.tar.gz",
        "f.txt",
    ] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let found = crate::input::expand(&[folder.path().display().to_string()]).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|p| p.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["a.jsonl.gz", "b.txt.zst", "c.csv.GZ", "f.txt"]);
}
