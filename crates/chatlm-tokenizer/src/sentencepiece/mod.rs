//! SentencePiece models as tokenizer folders with the same ids: BPE and unigram, the compiled normalizer,
//! white space, bytes as a way out, control and user-defined symbols.
//!
//! Where the two differ: the text of a control symbol (`</s>`) is that symbol here, as in every tokenizer of
//! transformers, and plain characters in SentencePiece; before a user-defined symbol a text's prefix, or a
//! space where extra ones are removed, is left out here.

mod file;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use chatlm_job::{Code, Error, Result, check_target};
use prost::Message;
use serde::Serialize;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{Precompiled, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, Tokenizer};

use crate::folder::{Beside, write};
use crate::preset::byte_fallback_decoder;
use file::{Kind, ModelFile, NormalizerSpec, TrainerSpec};

/// What was imported.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// `bpe` or `unigram`.
    pub model: String,
    pub vocab_size: u64,
    pub merges: u64,
    /// Roles that the model has no token for and T5 needs: these tokens come after its own.
    pub added: Vec<String>,
}

/// What SentencePiece calls the model types that are read here.
const UNIGRAM: i32 = 1;
const BPE_TYPE: i32 = 2;

const MARK: char = '▁';

fn invalid(path: &Path, what: &str) -> Error {
    Error::new(
        Code::TokenizerInvalid,
        format!("{}: {what}", path.display()),
        "give a .model file of SentencePiece, BPE or unigram",
    )
    .with("file", path.display().to_string())
}

/// Reads a `.model` file and writes the folder `out`.
pub fn import(path: &Path, out: &Path, force: bool) -> Result<ImportReport> {
    check_target(out, force)?;
    let bytes = fs::read(path).map_err(|e| Error::io(&e, "read", path))?;
    let model = ModelFile::decode(bytes.as_slice())
        .map_err(|e| invalid(path, &format!("this is no SentencePiece model: {e}")))?;
    if model.pieces.is_empty() {
        return Err(invalid(
            path,
            "this is no SentencePiece model: it has no pieces",
        ));
    }
    let trainer = model.trainer.clone().unwrap_or_default();
    let normalizer = model.normalizer.clone().unwrap_or_default();
    if trainer.treat_whitespace_as_suffix() || !normalizer.escape_whitespaces() {
        return Err(invalid(
            path,
            "marks after words, or none, are not read here",
        ));
    }
    let (name, core) = match trainer.model_type() {
        UNIGRAM => ("unigram", unigram(&model, path)?),
        BPE_TYPE => ("bpe", bpe(&model, path)?),
        _ => {
            return Err(invalid(
                path,
                "models of whole words or characters are not read here",
            ));
        }
    };
    let mut tokenizer = Tokenizer::new(core);
    with_parts(&mut tokenizer, &model, &normalizer).map_err(|e| invalid(path, &e.to_string()))?;
    let (roles, added) = special(&mut tokenizer, &model, &trainer)?;
    let roles: Vec<(&str, &str)> = roles
        .iter()
        .map(|(role, token)| (*role, token.as_str()))
        .collect();
    let merges = write(&tokenizer, &Beside::roles(&roles)?, out, force)?;
    Ok(ImportReport {
        model: name.to_owned(),
        vocab_size: tokenizer.get_vocab_size(true) as u64,
        merges,
        added,
    })
}

fn unknown(model: &ModelFile, path: &Path) -> Result<usize> {
    let place = model
        .pieces
        .iter()
        .position(|piece| piece.kind() == Kind::Unknown);
    place.ok_or_else(|| invalid(path, "it has no piece for what is unknown"))
}

fn has_bytes(model: &ModelFile) -> bool {
    model.pieces.iter().any(|piece| piece.kind() == Kind::Byte)
}

/// The crate looks for every piece in the text, SentencePiece for normal ones: bytes and unused pieces get
/// a score below that of their characters together.
fn unigram(model: &ModelFile, path: &Path) -> Result<ModelWrapper> {
    let normal = model
        .pieces
        .iter()
        .filter(|piece| piece.kind() == Kind::Normal);
    let least = normal
        .map(|piece| f64::from(piece.score()))
        .fold(0.0, f64::min);
    let vocabulary = model
        .pieces
        .iter()
        .map(|piece| {
            let score = match piece.kind() {
                Kind::Normal | Kind::UserDefined => f64::from(piece.score()),
                Kind::Control | Kind::Unknown => least,
                Kind::Byte | Kind::Unused => least * piece.text().chars().count() as f64 - 1.0,
            };
            (piece.text().to_owned(), score)
        })
        .collect();
    let unknown = unknown(model, path)?;
    let model = Unigram::from(vocabulary, Some(unknown), has_bytes(model));
    Ok(model.map_err(|e| invalid(path, &e.to_string()))?.into())
}

/// SentencePiece merges the neighbours whose joined piece has the best score; every way to join a piece
/// is a merge here, in the order of the scores.
fn bpe(model: &ModelFile, path: &Path) -> Result<ModelWrapper> {
    let ids: HashMap<&str, u32> = model
        .pieces
        .iter()
        .zip(0..)
        .map(|(piece, id)| (piece.text(), id))
        .collect();
    let joins = |kind: Kind| matches!(kind, Kind::Normal | Kind::UserDefined);
    let mut merges = Vec::new();
    for piece in model.pieces.iter().filter(|piece| joins(piece.kind())) {
        let text = piece.text();
        let mut ways: Vec<(&str, &str)> = text
            .char_indices()
            .skip(1)
            .map(|(at, _)| text.split_at(at))
            .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
            .collect();
        ways.sort_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(
            ways.into_iter()
                .map(|(left, right)| (piece.score(), left, right)),
        );
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| length(b.1).cmp(&length(a.1)))
            .then_with(|| length(b.2).cmp(&length(a.2)))
    });
    let merges = merges
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    let vocabulary: tokenizers::models::bpe::Vocab = ids
        .iter()
        .map(|(text, id)| ((*text).to_owned(), *id))
        .collect();
    let unknown = model.pieces[unknown(model, path)?].text().to_owned();
    let built = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .unk_token(unknown)
        .fuse_unk(true)
        .byte_fallback(has_bytes(model))
        .build();
    Ok(built.map_err(|e| invalid(path, &e.to_string()))?.into())
}

/// Normalizer, pre-tokenizer and decoder.
fn with_parts(
    tokenizer: &mut Tokenizer,
    model: &ModelFile,
    spec: &NormalizerSpec,
) -> tokenizers::Result<()> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if let Some(map) = Some(spec.precompiled_charsmap()).filter(|map| !map.is_empty()) {
        steps.push(Precompiled::from(map)?.into());
    }
    let prefixed = spec.add_dummy_prefix();
    let regex =
        |pattern: &str, to: &str| Replace::new(ReplacePattern::Regex(pattern.to_owned()), to);
    // No piece goes over the start of a word: words can be encoded one by one, and remembered.
    let within = |piece: &file::Piece| piece.text().chars().skip(1).any(|c| c == MARK);
    let split = !model.pieces.iter().any(within);
    let scheme = if prefixed {
        PrependScheme::First
    } else {
        PrependScheme::Never
    };
    let metaspace = Metaspace::new(MARK, scheme, split);
    if spec.remove_extra_whitespaces() {
        steps.push(regex(" {2,}", " ")?.into());
        // A mark in the text itself is taken for white space at the end alone.
        steps.push(regex("[ ▁]+$", "")?.into());
        // Where a prefix is due, a first space is it.
        steps.push(
            if prefixed {
                regex("^▁", "▁▁")?
            } else {
                regex("^ ", "")?
            }
            .into(),
        );
    } else if prefixed {
        // The prefix goes before a first space too, and Metaspace takes that for the prefix.
        steps.push(regex("^[ ▁]", "▁▁")?.into());
    }
    tokenizer.with_pre_tokenizer(Some(metaspace));
    tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    if has_bytes(model) {
        tokenizer.with_decoder(Some(byte_fallback_decoder(prefixed)?));
    } else {
        tokenizer.with_decoder(Some(Metaspace::new(
            MARK,
            if prefixed {
                PrependScheme::Always
            } else {
                PrependScheme::Never
            },
            split,
        )));
    }
    Ok(())
}

type Roles = Vec<(&'static str, String)>;

/// Adds control and user-defined symbols, and the roles that T5 needs and the model lacks.
fn special(
    tokenizer: &mut Tokenizer,
    model: &ModelFile,
    trainer: &TrainerSpec,
) -> Result<(Roles, Vec<String>)> {
    let (mut control, mut user) = (Vec::new(), Vec::new());
    for piece in &model.pieces {
        let special = matches!(piece.kind(), Kind::Control | Kind::Unknown);
        let token = AddedToken::from(piece.text(), special).normalized(false);
        match piece.kind() {
            Kind::Control | Kind::Unknown => control.push(token),
            Kind::UserDefined => user.push(token),
            _ => {}
        }
    }
    tokenizer
        .add_special_tokens(control)
        .map_err(Error::internal)?;
    tokenizer.add_tokens(user).map_err(Error::internal)?;
    let at = |id: i32| usize::try_from(id).ok().and_then(|id| model.pieces.get(id));
    let control = |id: i32| at(id).filter(|piece| piece.kind() == Kind::Control);
    let mut roles: Roles = Vec::new();
    let mut added = Vec::new();
    for (role, id, missing) in [
        ("pad_token", trainer.pad_id(), Some("<pad>")),
        ("eos_token", trainer.eos_id(), Some("</s>")),
        ("bos_token", trainer.bos_id(), None),
    ] {
        if let Some(piece) = control(id) {
            roles.push((role, piece.text().to_owned()));
        } else if let Some(token) = missing {
            if tokenizer.token_to_id(token).is_none() {
                added.push(token.to_owned());
            }
            tokenizer
                .add_special_tokens([AddedToken::from(token, true)])
                .map_err(Error::internal)?;
            roles.push((role, token.to_owned()));
        }
    }
    let unknown = model
        .pieces
        .iter()
        .find(|piece| piece.kind() == Kind::Unknown);
    roles.extend(unknown.map(|piece| ("unk_token", piece.text().to_owned())));
    Ok((roles, added))
}
