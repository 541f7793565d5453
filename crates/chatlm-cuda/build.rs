//! Under the feature `cuda`: compiles `kernels/*.cu` by nvcc, one fatbin a file. Otherwise: compiles them
//! by a C++ compiler with `emulate/`, for the tests; where there is none, the tests say so and pass.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Runs `commands`, a few at once; answers what the first that fails said.
fn run_all(commands: Vec<Command>) -> Result<(), String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    let jobs: usize = jobs.unwrap_or(1);
    let mut waiting = commands.into_iter();
    loop {
        let batch: Vec<_> = waiting
            .by_ref()
            .take(jobs.max(1))
            .map(|mut command| {
                std::thread::spawn(move || (format!("{command:?}"), command.output()))
            })
            .collect();
        if batch.is_empty() {
            return Ok(());
        }
        for thread in batch {
            let Ok((line, output)) = thread.join() else {
                return Err("a thread of the build panicked".to_owned());
            };
            let output = output.map_err(|error| format!("{line}: {error}"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
                return Err(format!("{line}: {said}"));
            }
        }
    }
}

fn nvcc(out: &Path) -> Result<(), String> {
    for name in ["CHATLM_NVCC", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let program = env::var_os("CHATLM_NVCC")
        .map(PathBuf::from)
        .unwrap_or_else(|| match env::var_os("CUDA_PATH") {
            Some(path) => PathBuf::from(path).join("bin/nvcc"),
            None => PathBuf::from("nvcc"),
        });
    if let Err(error) = Command::new(&program).arg("--version").output() {
        return Err(format!(
            "{}: {error}; `npm run build:cuda` brings a compiler, or set CHATLM_NVCC to one",
            program.display()
        ));
    }
    let commands = FILES.map(|file| {
        let mut command = Command::new(&program);
        command.args(["-std=c++17", "-O3", "--fatbin"]);
        for capability in ["80", "86", "89", "90"] {
            command.arg(format!(
                "-gencode=arch=compute_{capability},code=sm_{capability}"
            ));
        }
        // What is newer gets 9.0's PTX, which the driver compiles as it loads it.
        command.arg("-gencode=arch=compute_90,code=compute_90");
        command.arg("-o").arg(out.join(format!("{file}.fatbin")));
        command.arg(format!("kernels/{file}.cu"));
        command
    });
    run_all(commands.into())
}

fn emulate(out: &Path) {
    println!("cargo:rerun-if-env-changed=CXX");
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let sources = FILES.map(|file| (format!("kernels/{file}.cu"), file));
    let all: Vec<(String, &str)> = sources
        .into_iter()
        .chain([("emulate/emulate.cpp".to_owned(), "emulate")])
        .collect();
    let objects: Vec<PathBuf> = all
        .iter()
        .map(|(_, name)| out.join(format!("{name}.o")))
        .collect();
    let commands = all.iter().zip(&objects).map(|((source, _), object)| {
        let mut command = Command::new(&compiler);
        // No fused products and no guarded longjmp: fibers leave by it.
        command.args([
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-ffp-contract=off",
            "-U_FORTIFY_SOURCE",
        ]);
        command.args(["-Wno-unknown-pragmas", "-Iemulate", "-x", "c++", "-c"]);
        command.arg(source).arg("-o").arg(object);
        command
    });
    match run_all(commands.collect()) {
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
