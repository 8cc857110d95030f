//! How many events, tokens and served requests a second this crate is good for: `cargo run --release -p
//! interleaf-simulate --example speed`.

use std::error::Error;
use std::time::Instant;

use interleaf_simulate::{Calibration, Needs, Phase, Segment, Server, What, Workload, tokens};

fn main() -> Result<(), Box<dyn Error>> {
    let rate = |count: u64, since: Instant| count as f64 / since.elapsed().as_secs_f64() / 1e6;
    for name in ["llms", "edgelora", "elora", "mobilora"] {
        let start = Instant::now();
        let count = Workload::named(name)?.events(1).requests(1_000_000).count() as u64;
        println!("{name}: {:.2} million events a second", rate(count, start));
    }

    let mut text = Vec::new();
    let start = Instant::now();
    for source in 0..200_000 {
        text.clear();
        tokens(&[Segment { source, tokens: 4096 }], &mut text);
        std::hint::black_box(&text);
    }
    println!("tokens: {:.0} million a second", rate(200_000 * 4096, start));

    let workload = Workload::named("edgelora")?;
    let mut server = Server::new(&Calibration::named("orin-nx")?, 20);
    let start = Instant::now();
    let mut needs = Vec::new();
    let mut moments = 0_u64;
    let mut serve = |server: &mut Server, needs: &[Needs], until: f64| -> Result<(), Box<dyn Error>> {
        while let Some(moment) = server.next(until) {
            moments += 1;
            if moment.phase == Phase::Start {
                server.start(moment.request, needs[moment.request as usize])?;
            }
        }
        Ok(())
    };
    for event in workload.with("requests.rate = 0.1")?.events(1).requests(1_000_000) {
        serve(&mut server, &needs, event.at)?;
        if let What::Request(request) = event.what {
            let number = needs.len() as u64;
            needs.push(Needs {
                read_seconds: 0.01,
                prefill_tokens: request.prompt_tokens() as u32,
                output_tokens: request.answer.tokens,
                ..Needs::default()
            });
            server.admit(event.at, number, request.context, 0)?;
        }
    }
    serve(&mut server, &needs, f64::INFINITY)?;
    println!("served: {:.2} million requests a second, {moments} moments", rate(needs.len() as u64, start));
    Ok(())
}
