//! Under the feature `cuda`: compiles `kernels/*.cu` by nvcc, one fatbin a file. Otherwise: compiles them
//! by a C++ compiler with `emulate/`, for the tests; where there is none, the tests say so and pass.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const FILES: [&str; 10] = [
    "adafactor",
    "adamw",
    "attention",
    "attention_backward",
    "decode",
    "embedding",
    "feedforward",
    "loss",
    "norm",
    "sums",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=emulate");
    println!("cargo:rustc-check-cfg=cfg(emulated)");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let done = if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        nvcc(&out)
    } else {
        emulate(&out);
        Ok(())
    };
    if let Err(what) = done {
        // A build script's way to fail with a sentence.
        println!("cargo:warning={what}");
        std::process::exit(1);
    }
}

/// A command that makes one file of one source.
struct Step {
    command: Command,
    source: PathBuf,
    made: PathBuf,
}

impl Step {
    /// What the made file depends on: the command, the source and all headers.
    fn key(&self) -> Result<String, String> {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.command).hash(&mut hasher);
        let headers = ["kernels", "emulate"].iter().flat_map(|folder| {
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
            files.map(|file| file.path())
        });
        let mut files: Vec<PathBuf> = headers
            .filter(|path| {
                path.extension()
                    .is_some_and(|end| end == "h" || end == "cuh")
            })
            .chain([self.source.clone()])
            .collect();
        files.sort();
        for file in files {
            let text =
                std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            text.hash(&mut hasher);
        }
        Ok(format!("{:x}", hasher.finish()))
    }

    /// Runs it unless what it makes is there already.
    fn run(mut self) -> Result<(), String> {
        let (key, note) = (self.key()?, self.made.with_extension("key"));
        if self.made.exists() && std::fs::read_to_string(&note).is_ok_and(|old| old == key) {
            return Ok(());
        }
        let line = format!("{:?}", self.command);
        let output = self
            .command
            .output()
            .map_err(|error| format!("{line}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
            return Err(format!("{line}: {said}"));
        }
        std::fs::write(&note, key).map_err(|error| format!("{}: {error}", note.display()))
    }
}

/// Runs steps, as many at once as cargo allows; answers what the first that fails said.
fn run_all(steps: Vec<Step>) -> Result<(), String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    let (waiting, jobs): (_, usize) = (Mutex::new(steps.into_iter()), jobs.unwrap_or(1));
    let work = || -> Result<(), String> {
        loop {
            let next = waiting.lock().map_err(|error| error.to_string())?.next();
            let Some(step) = next else {
                return Ok(());
            };
            step.run()?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err("a thread of the build panicked".to_owned()),
            })
    })
}

fn nvcc(out: &Path) -> Result<(), String> {
    for name in ["CHATLM_NVCC", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let program = match (env::var_os("CHATLM_NVCC"), env::var_os("CUDA_PATH")) {
        (Some(program), _) => PathBuf::from(program),
        (None, Some(toolkit)) => PathBuf::from(toolkit).join("bin/nvcc"),
        (None, None) => PathBuf::from("nvcc"),
    };
    if let Err(error) = Command::new(&program).arg("--version").output() {
        return Err(format!(
            "{}: {error}; `npm run build:cuda` brings a compiler, or set CHATLM_NVCC to one",
            program.display()
        ));
    }
    let steps = FILES.map(|file| {
        let source = PathBuf::from(format!("kernels/{file}.cu"));
        let made = out.join(format!("{file}.fatbin"));
        let mut command = Command::new(&program);
        command.args(["-std=c++17", "-O3", "--fatbin"]);
        for capability in ["80", "86", "89", "90"] {
            command.arg(format!(
                "-gencode=arch=compute_{capability},code=sm_{capability}"
            ));
        }
        // What is newer gets 9.0's PTX, which the driver compiles as it loads it.
        command.arg("-gencode=arch=compute_90,code=compute_90");
        command.arg("-o").arg(&made).arg(&source);
        Step {
            command,
            source,
            made,
        }
    });
    run_all(steps.into())
}

fn emulate(out: &Path) {
    println!("cargo:rerun-if-env-changed=CXX");
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let sources = FILES.map(|file| (format!("kernels/{file}.cu"), file));
    let emulator = ("emulate/emulate.cpp".to_owned(), "emulate");
    let steps: Vec<Step> = sources
        .into_iter()
        .chain([emulator])
        .map(|(source, name)| {
            let (source, made) = (PathBuf::from(source), out.join(format!("{name}.o")));
            let mut command = Command::new(&compiler);
            // No fused products, and no guarded longjmp: fibers leave by it.
            command.args([
                "-std=c++17",
                "-O1",
                "-fPIC",
                "-ffp-contract=off",
                "-U_FORTIFY_SOURCE",
            ]);
            command.args(["-Wno-unknown-pragmas", "-Iemulate", "-x", "c++", "-c"]);
            command.arg(&source).arg("-o").arg(&made);
            Step {
                command,
                source,
                made,
            }
        })
        .collect();
    let objects: Vec<PathBuf> = steps.iter().map(|step| step.made.clone()).collect();
    match run_all(steps) {
        Ok(()) => {
            println!("cargo:rustc-cfg=emulated");
            for object in objects {
                println!("cargo:rustc-link-arg-tests={}", object.display());
            }
            println!("cargo:rustc-link-arg-tests=-lstdc++");
        }
        Err(what) => println!(
            "cargo:warning=the kernels' tests are skipped, they need a C++ compiler: {what}"
        ),
    }
}
