//! Dumps: XML as a stream, bz2 in one or many streams, and text as WikiExtractor writes it.
#![no_main]

use std::io::{BufReader, Cursor, Read};

use bzip2::{Compression, read::BzEncoder};
use chatlm_clean::fuzzing::{Pages, dump, extracted, rows, unpacked, walk};
use chatlm_clean::{CleanOptions, Purpose};
use chatlm_fuzz::{Pieces, mode, written};
use libfuzzer_sys::fuzz_target;

/// Far below libFuzzer's limit for memory.
const MOST: u64 = 64 << 20;

fuzz_target!(|bytes: &[u8]| {
    let (mode, rest) = mode(bytes);
    match mode % 16 {
        0 => packed(rest),
        1 => any_bz2(rest),
        2 => whole(rest),
        3 | 4 => text(rest, mode % 16 == 3),
        _ => xml(rest),
    }
});

/// The same bytes in pieces of different sizes are the same pages.
fn xml(bytes: &[u8]) {
    let read = |most| dump(Box::new(Pieces::new(bytes, most)));
    let pages = read(usize::MAX);
    assert_eq!(pages, read(1));
    assert_eq!(pages, read(7));
    bounded(&pages, bytes.len());
    // What stands before a break is not lost, whatever comes behind.
    if pages.broken.is_none() {
        let end = bytes.len() - bytes.len() / 3;
        let cut = dump(Box::new(Pieces::new(&bytes[..end], 4096)));
        assert!(cut.pages.len() <= pages.pages.len());
        assert_eq!(cut.pages[..], pages.pages[..cut.pages.len()]);
    }
}

/// A page can be no longer than what it was read from: a sign that is none becomes one of three bytes.
fn bounded(pages: &Pages, bytes: usize) {
    let read: usize = pages
        .pages
        .iter()
        .map(|page| page.title.len() + page.text.len())
        .sum();
    assert!(read <= 3 * bytes, "{read} bytes out of {bytes}");
}

fn text(bytes: &[u8], docs: bool) {
    let read = |most| {
        extracted(
            Box::new(BufReader::with_capacity(16, Pieces::new(bytes, most))),
            docs,
        )
    };
    let pages = read(16);
    assert_eq!(pages, read(1));
    assert_eq!(
        pages,
        extracted(Box::new(Cursor::new(bytes.to_vec())), docs)
    );
    // A title stands twice where it is that of the text as well.
    bounded(&pages, 2 * bytes.len());
}

/// Streams of any lengths hold what was packed.
fn packed(bytes: &[u8]) {
    let (first, rest) = mode(bytes);
    let size = 1 + rest.len() * usize::from(first % 8) / 7;
    let mut file = Vec::new();
    for piece in rest.chunks(size.max(rest.len() / 8).max(1)) {
        BzEncoder::new(piece, Compression::fast())
            .read_to_end(&mut file)
            .expect("memory can be read");
    }
    if rest.is_empty() {
        return;
    }
    let read = unpacked(Pieces::new(&file, 1000), MOST).expect("it was packed here");
    assert_eq!(read, rest);
    // Cut short it is an error, or what the whole streams before the cut hold.
    let cut = file.len() - 1 - usize::from(first) * (file.len() - 1) / 256;
    if let Ok(start) = unpacked(Cursor::new(file[..cut].to_vec()), MOST) {
        assert!(start.len() < rest.len() && rest.starts_with(&start));
    }
}

fn any_bz2(bytes: &[u8]) {
    let read = |most| unpacked(Pieces::new(bytes, most), MOST).map_err(|error| error.to_string());
    assert_eq!(read(usize::MAX), read(5));
}

/// As the program reads a file, whatever it is, and through the rules.
fn whole(bytes: &[u8]) {
    let path = written(bytes, "xml");
    let source = "zhwiki".parse().expect("it is there");
    let mut options = CleanOptions::new(source, Purpose::Pretrain, vec![path], "out".into());
    let strict = rows(&options);
    options.keep_going = true;
    let lenient = rows(&options);
    assert!(
        lenient.rows.starts_with(&strict.rows),
        "rows before an error are kept"
    );
    assert_eq!(
        strict.error.is_some(),
        lenient.broken > 0 || lenient.error.is_some()
    );
    for row in &lenient.rows {
        let _ = walk(&options, row);
    }
}
