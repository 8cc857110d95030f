//! The `interleaf` binary.

fn main() -> std::process::ExitCode {
    interleaf_cli::main()
}
