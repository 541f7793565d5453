//! Which linear layers an adapter is for, as PEFT reads `target_modules` and what narrows it.

use chatlm_job::{Code, Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::lora::LoraConfig;
use crate::parameters::shapes;

/// Module names as PEFT takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// A regular expression over the whole name; `all-linear` means every layer.
    Pattern(String),
    /// Names, or ends of names: `q`, `SelfAttention.q`.
    List(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl From<Vec<String>> for Names {
    fn from(names: Vec<String>) -> Self {
        Self::List(names)
    }
}

impl Names {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.is_empty(),
            Self::List(names) => names.is_empty(),
        }
    }

    fn matcher(&self, field: &str) -> Result<Matcher<'_>> {
        Ok(match self {
            Self::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => Matcher::All,
            Self::Pattern(pattern) => {
                Matcher::Pattern(compile(&format!("^(?:{pattern})$"), field)?)
            }
            Self::List(names) => Matcher::Ends(names),
        })
    }
}

enum Matcher<'a> {
    All,
    Pattern(Regex),
    Ends(&'a [String]),
}

fn ends(target: &str, module: &str) -> bool {
    module == target || module.ends_with(&format!(".{target}"))
}

impl Matcher<'_> {
    fn hits(&self, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(pattern) => pattern.is_match(module),
            Self::Ends(names) => names.iter().any(|name| ends(name, module)),
        }
    }
}

fn compile(pattern: &str, field: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| {
        let what = format!("{field}: {pattern} is no regular expression here: {error}");
        let help = "look-around and back references are not known here; name the layers in a list";
        Error::new(Code::ConfigInvalid, what, help).with("field", field)
    })
}

/// What a T5's layers may be called, for an error's help.
fn known(config: &Config) -> String {
    let wi = if config.gated() { "wi_0, wi_1" } else { "wi" };
    format!(
        "for this model: q, k, v, o, {wi}, wo, or longer ends (SelfAttention.q, EncDecAttention.k, \
         DenseReluDense.wo), a regular expression over the whole name \
         (decoder\\.block\\.\\d+\\.layer\\.1\\..*), or all-linear"
    )
}

/// All linear layers: name, input and output width.
fn linear_layers(config: &Config) -> Vec<(String, usize, usize)> {
    shapes(config)
        .into_iter()
        .filter_map(|(name, shape)| {
            let module = name.strip_suffix(".weight")?;
            let kind = module.rsplit('.').next()?;
            matches!(kind, "q" | "k" | "v" | "o" | "wi" | "wi_0" | "wi_1" | "wo")
                .then(|| (module.to_owned(), shape[1], shape[0]))
        })
        .collect()
}

impl LoraConfig {
    /// The linear layers that get an adapter: module name, input and output width.
    pub fn modules(&self, config: &Config) -> Result<Vec<(String, usize, usize)>> {
        let refuse = |field: &str, message: String| {
            Err(Error::new(Code::ConfigInvalid, message, known(config)).with("field", field))
        };
        self.check()?;
        if self.targets.is_empty() {
            return refuse("lora.targets", "lora.targets names no layer".to_owned());
        }
        let linear = linear_layers(config);
        if let Names::List(names) = &self.targets {
            for name in names {
                if linear.iter().any(|(module, ..)| ends(name, module)) {
                    continue;
                }
                let last = name.rsplit('.').next().unwrap_or_default();
                let why = if matches!(last, "shared" | "embed_tokens" | "lm_head") {
                    "is the embedding or the output projection, which take no adapter here (in a \
                     tied model a change of one is a change of the other)"
                } else {
                    "is the name or the end of the name of no linear layer"
                };
                return refuse("lora.targets", format!("lora.targets: {name} {why}"));
            }
        }
        if matches!(self.targets, Names::Pattern(_)) && self.layers_to_transform.is_some() {
            // As in PEFT: a pattern can say itself which blocks it means.
            let message = "lora.layersToTransform stands beside a pattern; it narrows a list alone";
            return refuse("lora.layersToTransform", message.to_owned());
        }
        let targets = self.targets.matcher("lora.targets")?;
        let excluded = self.exclude_modules.matcher("lora.excludeModules")?;
        let layers = self.layers_pattern.as_ref().map(|names| match names {
            Names::Pattern(name) => name.clone(),
            Names::List(names) => names.join("|"),
        });
        let layers = layers.filter(|names| !names.is_empty());
        let block = compile(
            &match layers {
                Some(names) => format!(r"^(?:|.*?\.)(?:{names})\.(?<block>\d+)\."),
                None => r"^.*?\.[^.]*\.(?<block>\d+)\.".to_owned(),
            },
            "lora.layersPattern",
        )?;
        let in_block = |module: &str| {
            let Some(wanted) = self
                .layers_to_transform
                .as_deref()
                .filter(|l| !l.is_empty())
            else {
                return true;
            };
            let found = block.captures(module);
            let found = found.and_then(|found| found["block"].parse::<usize>().ok());
            found.is_some_and(|block| wanted.contains(&block))
        };
        let found: Vec<_> = linear
            .into_iter()
            .filter(|(module, ..)| {
                targets.hits(module)
                    && (self.exclude_modules.is_empty() || !excluded.hits(module))
                    && in_block(module)
            })
            .collect();
        if found.is_empty() {
            let message = "lora.targets, less what excludeModules and layersToTransform leave out, \
                           is no linear layer";
            return refuse("lora.targets", message.to_owned());
        }
        // Patterns and ranks are looked at here, so that later questions have answers.
        for (module, ..) in &found {
            self.rank(module)?;
            self.scaling(module)?;
        }
        let fields = [
            ("lora.rankPattern", &self.rank_pattern),
            ("lora.alphaPattern", &self.alpha_pattern),
        ];
        for (field, patterns) in fields {
            for key in patterns.keys() {
                let pattern = pattern(key, field)?;
                if !found.iter().any(|(module, ..)| pattern.is_match(module)) {
                    let what = format!("{field}: {key} matches no layer that has an adapter");
                    return refuse(field, what);
                }
            }
        }
        Ok(found)
    }
}

/// PEFT's `(.*\.)?(key)$`, from the beginning of the name.
fn pattern(key: &str, field: &str) -> Result<Regex> {
    compile(&format!(r"^(?:.*\.)?(?:{key})$"), field)
}

/// The value of the first pattern that matches a module.
pub(crate) fn lookup<'a>(
    patterns: &'a Map<String, Value>,
    module: &str,
    field: &str,
) -> Result<Option<&'a Value>> {
    for (key, value) in patterns {
        if pattern(key, field)?.is_match(module) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
