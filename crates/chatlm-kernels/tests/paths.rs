//! A small model on whatever path `CHATLM_CPU` names; without it, on the widest.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use chatlm_kernels::Precision;
use chatlm_kernels::cpu::{self, Cpu};

use common::block::Block;
use common::{bits, close};

#[test]
fn the_path_is_the_one_asked_for_or_refused() {
    let asked = std::env::var("CHATLM_CPU")
        .ok()
        .filter(|name| !name.is_empty());
    match (cpu::check(), asked) {
        (Ok(()), Some(name)) => assert_eq!(cpu::cpu().name(), name),
        (Ok(()), None) => assert_eq!(cpu::cpu(), Cpu::widest()),
        (Err(error), name) => {
            assert!(error.to_string().contains(&name.unwrap()), "{error}");
            assert_eq!(cpu::cpu(), Cpu::Plain);
        }
    }
    assert!(cpu::cpu().available());
}

#[test]
fn a_model_is_its_twin() {
    for dropped in [false, true] {
        let block = Block::new(&[5, 0, 130, 17], dropped);
        let expected = block.reference();
        let path = cpu::cpu().name();
        let found = block.found(Precision::F32);
        close(
            &format!("{path}, dropped {dropped}"),
            &found,
            &expected,
            1e-5,
        );
        let narrow = block.found(Precision::Bf16);
        // More than a single product's 2e-2: what is rounded across the kink of the ReLU loses or
        // gains a whole gradient.
        close(
            &format!("{path} in bf16, dropped {dropped}"),
            &narrow,
            &expected,
            1e-1,
        );
        assert_ne!(bits(&found), bits(&narrow));
    }
}
