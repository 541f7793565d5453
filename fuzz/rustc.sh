#!/bin/sh
# Cargo's RUSTC_WRAPPER: coverage for libFuzzer in the crates at hand and what reads files for them, and in no
# other: counters of polars would only make each run slower. Flags are those of cargo-fuzz; the stable compiler has them.
rustc=$1
shift
case " $* " in
*" --crate-name chatlm_"* | *" --crate-name quick_xml "* | *" --crate-name csv_core "* | *" --crate-name bzip2 "* | *" --crate-name libbz2_rs_sys "* | *" --crate-name wikitext "* | *" --crate-name csv "* | *" --crate-name xml "* | *" --crate-name rules "*)
    exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$rustc" "$@"
