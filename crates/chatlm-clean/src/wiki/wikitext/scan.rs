//! The pass over the text. What is open lies on a stack with the place in the output where it began;
//! closing it replaces what was written since.

use super::{conversion, entity::entity, link};

/// Elements whose content is no text.
const SILENT: [&str; 22] = [
    "ref",
    "math",
    "chem",
    "gallery",
    "timeline",
    "score",
    "syntaxhighlight",
    "source",
    "imagemap",
    "hiero",
    "graph",
    "mapframe",
    "templatestyles",
    "templatedata",
    "noinclude",
    "includeonly",
    "script",
    "style",
    "table",
    "categorytree",
    "inputbox",
    "references",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `{{…}}`
    Template,
    /// `{{{…}}}`
    Argument,
    /// `{|` to `|}` at starts of lines.
    Table,
    /// `[[…]]`
    Link,
    /// `[http…]`
    Address,
    /// `-{…}-`
    Conversion,
}

impl Kind {
    /// What ends with its paragraph, and whose text is written once more when it is closed.
    fn is_inline(self) -> bool {
        matches!(self, Self::Link | Self::Address | Self::Conversion)
    }
}

/// So many of these inside each other: deeper ones are text, else each would write all that is in it once more.
const DEEPEST: usize = 64;

/// Bytes of a tag at most.
const TAG: usize = 2000;

struct Frame {
    kind: Kind,
    start: usize,
    /// Ends of a link's target and of its part before the label, in the output.
    bars: Option<(usize, usize)>,
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    out: String,
    stack: Vec<Frame>,
    /// Of each kind on the stack.
    open: [usize; 6],
    /// Elements whose end is not to be found from here on.
    endless: Vec<&'static str>,
    no_comment_end: bool,
    /// Where the next `>` is, or the end of the text; found again once it was passed.
    next_close: usize,
}

/// The text with its markup resolved, lines as they were.
pub(super) fn scan(text: &str) -> String {
    let mut scan = Scan {
        text,
        at: 0,
        out: String::with_capacity(text.len()),
        stack: Vec::new(),
        open: [0; 6],
        endless: Vec::new(),
        no_comment_end: false,
        next_close: text.find('>').unwrap_or(text.len()),
    };
    while scan.at < text.len() {
        scan.step();
    }
    scan.end()
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn bytes(&self) -> &[u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn step(&mut self) {
        let bytes = self.bytes();
        match bytes[0] {
            b'{' => self.brace(),
            b'}' => self.unbrace(),
            b'[' => self.bracket(),
            b']' => self.unbracket(),
            b'|' => self.bar(),
            b'-' if bytes.starts_with(b"-{") => self.push(Kind::Conversion, 2),
            b'<' => self.tag(),
            b'&' => self.entity(),
            b'\'' => self.quotes(),
            b'_' if bytes.starts_with(b"__") => self.magic(),
            b'\n' => self.newline(),
            _ => self.words(),
        }
    }

    fn keep(&mut self, bytes: usize) {
        self.out.push_str(&self.text[self.at..self.at + bytes]);
        self.at += bytes;
    }

    /// Text up to the next byte that may be markup.
    fn words(&mut self) {
        let special = |byte: &u8| b"{}[]|-<&'_\n".contains(byte);
        let bytes = self.bytes();
        // The first one was looked at.
        let length = bytes[1..]
            .iter()
            .position(special)
            .map_or(bytes.len(), |at| at + 1);
        self.keep(length);
    }

    /// The links, addresses and conversions inside each other here, from within.
    fn inlines(&self) -> impl Iterator<Item = &Frame> {
        let frames = self.stack.iter().rev().take(DEEPEST);
        frames.take_while(|frame| frame.kind.is_inline())
    }

    fn push(&mut self, kind: Kind, bytes: usize) {
        if kind.is_inline() && self.inlines().count() == DEEPEST {
            self.keep(bytes);
            return;
        }
        self.at += bytes;
        self.open[kind as usize] += 1;
        self.stack.push(Frame {
            kind,
            start: self.out.len(),
            bars: None,
        });
    }

    fn is_open(&self, kind: Kind) -> bool {
        self.open[kind as usize] > 0
    }

    fn top(&self) -> Option<Kind> {
        self.stack.last().map(|frame| frame.kind)
    }

    fn pop(&mut self) -> Option<Frame> {
        let frame = self.stack.pop()?;
        self.open[frame.kind as usize] -= 1;
        Some(frame)
    }

    /// Closes the nearest of a kind; what is open inside it was not closed, so it was text.
    fn close(&mut self, kind: Kind) -> Option<Frame> {
        while let Some(frame) = self.pop() {
            if frame.kind == kind {
                return Some(frame);
            }
        }
        None
    }

    fn starts_line(&self) -> bool {
        let line = &self.text.as_bytes()[..self.at];
        // Tables are often indented.
        let indent = line
            .iter()
            .rev()
            .take(16)
            .take_while(|byte| b" :\t".contains(byte))
            .count();
        matches!(line.iter().rev().nth(indent), None | Some(b'\n'))
    }

    fn brace(&mut self) {
        let bytes = self.bytes();
        if bytes.starts_with(b"{{{") && !bytes.starts_with(b"{{{{") {
            self.push(Kind::Argument, 3);
        } else if bytes.starts_with(b"{{") {
            self.push(Kind::Template, 2);
        } else if bytes.starts_with(b"{|") && self.starts_line() {
            self.push(Kind::Table, 2);
        } else {
            self.keep(1);
        }
    }

    fn unbrace(&mut self) {
        let bytes = self.bytes();
        if bytes.starts_with(b"}}}") && self.top() == Some(Kind::Argument) {
            self.drop_frame(Kind::Argument, 3);
        } else if bytes.starts_with(b"}}") && self.is_open(Kind::Template) {
            self.drop_frame(Kind::Template, 2);
        } else if bytes.starts_with(b"}-") && self.is_open(Kind::Conversion) {
            self.at += 2;
            if let Some(frame) = self.close(Kind::Conversion) {
                let content = self.out.split_off(frame.start);
                self.out.push_str(conversion::text(&content));
            }
        } else {
            self.keep(1);
        }
    }

    /// Closes what leaves nothing.
    fn drop_frame(&mut self, kind: Kind, bytes: usize) {
        self.at += bytes;
        if let Some(frame) = self.close(kind) {
            self.out.truncate(frame.start);
        }
    }

    fn bracket(&mut self) {
        let bytes = self.bytes();
        let address = |bytes: &[u8]| {
            [
                b"http://".as_slice(),
                b"https://",
                b"ftp://",
                b"//",
                b"mailto:",
            ]
            .iter()
            .any(|scheme| bytes.starts_with(scheme))
        };
        if bytes.starts_with(b"[[") {
            self.push(Kind::Link, 2);
        } else if address(&bytes[1..]) {
            self.push(Kind::Address, 1);
        } else {
            self.keep(1);
        }
    }

    fn unbracket(&mut self) {
        // A link left open in a template or table is not closed by what follows it.
        let link =
            self.bytes().starts_with(b"]]") && self.inlines().any(|frame| frame.kind == Kind::Link);
        if self.top() == Some(Kind::Address) {
            self.at += 1;
            if let Some(frame) = self.close(Kind::Address) {
                let content = self.out.split_off(frame.start);
                // An address without a label shows a number.
                if let Some((_, label)) = content.split_once([' ', '\u{3000}']) {
                    self.out.push_str(label.trim());
                }
            }
        } else if link {
            self.at += 2;
            if let Some(frame) = self.close(Kind::Link) {
                let content = self.out.split_off(frame.start);
                let text = match frame.bars {
                    None => link::text(&content, None),
                    Some((target, label)) => {
                        let (target, label) = (target - frame.start, label - frame.start);
                        link::text(&content[..target], Some(&content[label..]))
                    }
                };
                self.out.push_str(text);
            }
        } else {
            self.keep(1);
        }
    }

    fn bar(&mut self) {
        let next = self.bytes().get(1);
        if next == Some(&b'}')
            && self.bytes().get(2) != Some(&b'}')
            && self.is_open(Kind::Table)
            && self.starts_line()
        {
            self.drop_frame(Kind::Table, 2);
            return;
        }
        let end = self.out.len();
        match self.stack.last_mut() {
            Some(frame) if frame.kind == Kind::Link => {
                let target = frame.bars.map_or(end, |(target, _)| target);
                frame.bars = Some((target, end));
                self.at += 1;
            }
            _ => self.keep(1),
        }
    }

    fn newline(&mut self) {
        // Links end with their paragraph, closed or not; templates and tables do not.
        if self.bytes().starts_with(b"\n\n") {
            while self.top().is_some_and(Kind::is_inline) {
                self.pop();
            }
        }
        self.keep(1);
    }

    fn quotes(&mut self) {
        let run = self
            .bytes()
            .iter()
            .take_while(|byte| **byte == b'\'')
            .count();
        // Two are italic, three bold, five both; one and the fourth are apostrophes.
        if run == 1 || run == 4 {
            self.out.push('\'');
        }
        self.at += run;
    }

    fn magic(&mut self) {
        let rest = self.rest();
        let end = rest[2..]
            .char_indices()
            .take(24)
            .find(|(_, c)| !c.is_alphanumeric());
        match end {
            Some((end, '_')) if end > 0 && rest[2 + end..].starts_with("__") => self.at += end + 4,
            _ => self.keep(1),
        }
    }

    fn entity(&mut self) {
        match entity(self.rest()) {
            Some((text, length)) => {
                self.out.push_str(&text);
                self.at += length;
            }
            None => self.keep(1),
        }
    }

    fn tag(&mut self) {
        let rest = self.rest();
        if rest.starts_with("<!--") {
            let end = (!self.no_comment_end).then(|| rest.find("-->")).flatten();
            self.no_comment_end = end.is_none();
            // One that never ends is no comment.
            self.at += end.map_or(4, |end| end + 3);
            return;
        }
        let name_start = if rest.starts_with("</") { 2 } else { 1 };
        let name: String = rest[name_start..]
            .chars()
            .take(20)
            .take_while(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        // A tag of attributes so long is none.
        if self.next_close < self.at {
            self.next_close = rest.find('>').map_or(self.text.len(), |end| self.at + end);
        }
        let end = self.next_close - self.at;
        if end >= TAG.min(rest.len()) || name.is_empty() {
            self.keep(1);
            return;
        }
        let closing = name_start == 2;
        let alone = rest[..end].ends_with('/');
        let silent = SILENT.iter().find(|silent| **silent == name).copied();
        let raw = name == "nowiki" || name == "pre";
        if closing || alone || (silent.is_none() && !raw) {
            if name == "br" {
                self.out.push('\n');
            }
            self.at += end + 1;
            return;
        }
        let known: &'static str = silent.unwrap_or(if name == "pre" { "pre" } else { "nowiki" });
        let content = end + 1;
        let found = if self.endless.contains(&known) {
            None
        } else {
            find_end(&rest[content..], known)
        };
        let Some((length, after)) = found else {
            self.endless.push(known);
            self.at += content;
            return;
        };
        if raw {
            let text = super::entities(&rest[content..content + length]);
            self.out.push_str(&text);
        }
        self.at += content + after;
    }

    /// What is still open at the end was text, but for tables.
    fn end(mut self) -> String {
        if let Some(table) = self.stack.iter().find(|frame| frame.kind == Kind::Table) {
            self.out.truncate(table.start);
        }
        self.out
    }
}

/// Where an element's content ends, and its end tag.
fn find_end(text: &str, name: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(found) = text[from..].find("</") {
        let at = from + found;
        let rest = &bytes[at + 2..];
        let same =
            rest.len() >= name.len() && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes());
        let after = rest.get(name.len()).copied();
        if same && !after.is_some_and(|byte| byte.is_ascii_alphanumeric()) {
            let close = text[at..]
                .find('>')
                .map_or(text.len(), |close| at + close + 1);
            return Some((at, close));
        }
        from = at + 2;
    }
    None
}
