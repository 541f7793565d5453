//! That the list of kernels is what is compiled.
use crate::common::names;

#[test]
fn every_kernel_is_in_the_list() {
    let listed: Vec<&str> = chatlm_cuda::KERNELS.lines().collect();
    let compiled = names();
    assert_eq!(
        compiled, listed,
        "kernels/names.txt is not what the kernels' files hold"
    );
}
