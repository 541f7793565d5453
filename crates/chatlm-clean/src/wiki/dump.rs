//! A dump's pages, as a stream of XML (MediaWiki's export format).

use std::io::{BufRead, BufReader, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

use super::bounded::Bounded;
use super::{Article, Fault, LONGEST, extracted::too_long};

/// Which element's text is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Title,
    Namespace,
    Text,
}

pub(super) struct Dump {
    reader: Reader<BufReader<Bounded<Box<dyn Read + Send>>>>,
    buffer: Vec<u8>,
    begun: bool,
    over: bool,
    pub(super) undecodable: u64,
}

impl Dump {
    pub(super) fn new(source: Box<dyn Read + Send>) -> Self {
        let mut reader =
            Reader::from_reader(BufReader::with_capacity(1 << 18, Bounded::new(source)));
        reader.config_mut().check_end_names = true;
        Self {
            reader,
            buffer: Vec::new(),
            begun: false,
            over: false,
            undecodable: 0,
        }
    }

    fn cut(title: &str) -> Fault {
        let after = if title.is_empty() {
            String::new()
        } else {
            format!(", in the page {title:?}")
        };
        Fault::File(format!(
            "it ends before its last page does{after}: it was cut off"
        ))
    }

    fn page(&mut self) -> Result<Option<Article>, Fault> {
        let mut article = Article {
            markup: true,
            ..Article::default()
        };
        let (mut inside, mut field, mut long) = (false, None, false);
        loop {
            self.buffer.clear();
            let event = match self.reader.read_event_into(&mut self.buffer) {
                Ok(event) => event,
                Err(quick_xml::Error::Io(error)) => {
                    let what = format!(
                        "it cannot be read after the page {:?}: {error}",
                        article.title
                    );
                    return Err(Fault::File(what));
                }
                Err(error) => {
                    let what = format!(
                        "its XML is broken near the page {:?}: {error}",
                        article.title
                    );
                    return Err(Fault::File(what));
                }
            };
            let mut add = |text: &str| {
                let into = match field {
                    Some(Field::Title) => &mut article.title,
                    Some(Field::Text) => &mut article.text,
                    Some(Field::Namespace) => {
                        article.namespace = text.trim().parse().unwrap_or(article.namespace);
                        return;
                    }
                    None => return,
                };
                if into.len() + text.len() <= LONGEST {
                    into.push_str(text);
                } else {
                    long = true;
                }
            };
            match event {
                Event::Start(tag) => {
                    let name = tag.local_name();
                    match name.as_ref() {
                        b"mediawiki" => self.begun = true,
                        b"page" => {
                            article = Article {
                                markup: true,
                                ..Article::default()
                            };
                            (inside, long) = (true, false);
                        }
                        b"title" if inside => field = Some(Field::Title),
                        b"ns" if inside => field = Some(Field::Namespace),
                        // Of several revisions the last counts.
                        b"text" if inside => {
                            article.text.clear();
                            field = Some(Field::Text);
                        }
                        _ if !self.begun => {
                            return Err(Fault::File(
                                "it is no dump of MediaWiki: its first element is not <mediawiki>"
                                    .to_owned(),
                            ));
                        }
                        _ => {}
                    }
                }
                Event::Empty(tag) if inside && tag.local_name().as_ref() == b"redirect" => {
                    article.redirect = true;
                }
                Event::Text(text) => {
                    let text = String::from_utf8_lossy(&text);
                    if matches!(text, std::borrow::Cow::Owned(_)) {
                        self.undecodable += 1;
                    }
                    add(&text);
                }
                Event::CData(text) => add(&String::from_utf8_lossy(&text)),
                Event::GeneralRef(reference) => add(&character(&reference)),
                Event::End(tag) => {
                    field = None;
                    match tag.local_name().as_ref() {
                        b"page" if long => return Err(Fault::Article(too_long(&article.title))),
                        b"page" if inside => return Ok(Some(article)),
                        b"mediawiki" => self.over = true,
                        _ => {}
                    }
                }
                // Entities of a document's own can stand for any amount of text.
                Event::DocType(_) => {
                    return Err(Fault::File(
                        "it declares a document type, which dumps do not have".to_owned(),
                    ));
                }
                Event::Eof if self.over => return Ok(None),
                Event::Eof => return Err(Self::cut(&article.title)),
                _ => {}
            }
        }
    }
}

impl Iterator for Dump {
    type Item = Result<Article, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.page().transpose()
    }
}

/// What a reference in XML stands for; one that is not known stays as it is.
fn character(reference: &BytesRef<'_>) -> String {
    if let Ok(Some(c)) = reference.resolve_char_ref() {
        return c.to_string();
    }
    let name = String::from_utf8_lossy(reference).into_owned();
    quick_xml::escape::resolve_xml_entity(&name).map_or_else(|| format!("&{name};"), str::to_owned)
}

/// Whether a file that begins so is XML, or will be after a mark and white space.
pub(super) fn is_xml(reader: &mut impl BufRead) -> std::io::Result<bool> {
    let head = reader.fill_buf()?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let start = head
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .unwrap_or(head.len());
    let head = &head[start..];
    Ok(head.starts_with(b"<?xml")
        || head.starts_with(b"<mediawiki")
        || head.starts_with(b"<!DOCTYPE"))
}
