//! Counts primes below its argument and prints how far it got.

fn main() {
    let limit = match std::env::args().nth(1).map(|text| text.parse::<u32>()) {
        Some(Ok(limit)) => limit,
        Some(Err(error)) => {
            eprintln!("the limit must be a number: {error}");
            std::process::exit(2);
        }
        None => 10_000,
    };
    println!("counting primes below {limit}");
    println!("found {}", count(limit));
}

fn count(limit: u32) -> usize {
    (2..limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
}
