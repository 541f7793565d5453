fn main() {
    napi_build::setup();
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        // Where CUDA's libraries are looked for besides the system's places.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN/lib:/usr/local/cuda/lib64");
    }
}
