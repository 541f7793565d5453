//! Joins the data branch and the model branch: training runs over run folders, generation
//! sessions, measuring, rejects and merging. The border calls this crate and nothing below it for
//! anything that needs a model.

mod answers;
mod batches;
mod bench;
mod bench_encode;
mod bench_generate;
mod bench_load;
mod contamination;
mod device;
mod evaluate;
mod event;
mod export;
mod extend;
mod forced;
mod generator;
mod given;
mod journal;
mod likeness;
mod machine;
mod merge;
mod plan;
mod reference;
mod reject;
mod scores;
mod serving;
mod settings;
mod setup;
mod stop;
mod tell;
mod tensorboard;
mod training;
mod validation;
mod verify;
mod worker;
mod workers;

pub use bench::{BenchTrainStep, BenchTrainStepReport, bench_train_step};
pub use bench_encode::{BenchEncode, BenchEncodeReport, bench_encode};
pub use bench_generate::{BenchGenerate, BenchGenerateReport, bench_generate};
pub use bench_load::{BenchLoad, BenchLoadReport, bench_load};
pub use device::check_device;
pub use evaluate::{
    BleuOptions, BleuReport, PerplexityOptions, PerplexityReport, evaluate_bleu,
    evaluate_perplexity,
};
pub use event::{Evaluated, Event, FinishReason as RunEnd, Rewards, Stamp, StepEvent};
pub use export::{ExportOptions, ExportReport, export};
pub use extend::{ExtendOptions, ExtendReport, extend};
pub use generator::{Answer, Generator, GeneratorOptions};
pub use given::GivenSettings;
pub use machine::{Doctor, doctor, peak_rss_bytes, set_threads};
pub use merge::{Combination, MergeOptions, MergeReport, UnmergeOptions, merge_lora, unmerge_lora};
pub use plan::{ProbeOptions, ProbeReport, ProbedBatch, ProbedStep, plan_probe};
pub use reject::{RejectOptions, RejectReport, reject};
pub use serving::{Limits, Outcome, Question, Serving, ServingStats, Tell, Told};
pub use settings::AnswerSettings;
pub use setup::RunKind;
pub use tell::{FinishReason, Piece};
pub use training::{RunOptions, TrainingRun};
pub use verify::{ResumeReport, verify_resume};
pub use worker::{Worker, panic_error};
pub use workers::WorkerPlace;
