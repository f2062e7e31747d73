//! `amend`.

/// The controller parses JSON all day, on as many threads as there are cores: the system's allocator took half of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    amend_cli::main()
}
