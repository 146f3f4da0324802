use super::{testing::on, *};

#[test]
fn parts_follow_each_other() {
    for (count, things) in [(1, 0), (1, 9), (2, 9), (3, 9), (4, 3), (7, 64), (64, 8)] {
        let mut next = 0;
        let parts = on(count, |ranks| part(ranks, ranks.rank(), things));
        for part in &parts {
            assert_eq!(part.start, next);
            next = part.end;
            assert!([things / count, things.div_ceil(count)].contains(&part.len()), "{parts:?}");
        }
        assert_eq!(next, things);
    }
}

/// What each of three ranks gets when they say these.
fn gathered(own: [Result<Option<&str>, &str>; 3]) -> Vec<Result<Option<Vec<Vec<u8>>>, RanksError>> {
    let own = own.map(|own| match own {
        Ok(said) => Ok(said.map(|said| said.as_bytes().to_vec())),
        Err(message) => Err(RanksError::Lost(message.to_owned())),
    });
    on(3, |ranks| gather(ranks, own[ranks.rank()].clone(), &mut || {}))
}

#[test]
fn all_come_to_the_same_end() {
    let said = vec![b"a".to_vec(), b"".to_vec(), b"ccc".to_vec()];
    assert_eq!(gathered([Ok(Some("a")), Ok(Some("")), Ok(Some("ccc"))]), vec![Ok(Some(said)); 3]);
    assert_eq!(gathered([Ok(Some("a")), Ok(None), Ok(Some("c"))]), vec![Ok(None); 3]);
    // An error counts more than a stop, the first more than others.
    let told = RanksError::Failed { rank: 1, message: "the other ranks cannot be reached: burnt".to_owned() };
    let own = RanksError::Lost("burnt".to_owned());
    let found = gathered([Ok(None), Err("burnt"), Err("drowned")]);
    assert_eq!(found, [Err(told.clone()), Err(own), Err(told.clone())]);
    assert_eq!(told.to_string(), "rank 1: the other ranks cannot be reached: burnt");
}

#[test]
fn what_differs_is_named() {
    let options = |rank: usize| {
        let lr = if rank == 2 { "0.5" } else { "0.01" };
        BTreeMap::from([("--lr".to_owned(), lr.to_owned()), ("--seed".to_owned(), "7".to_owned())])
    };
    for found in on(4, |ranks| agree::<_, RanksError>(ranks, Ok(ranks.rank()), |&rank| options(rank))) {
        let message = found.unwrap_err().to_string();
        assert_eq!(message, "rank 2 was started with another --lr than rank 0: 0.5, not 0.01");
    }
    // As is what only one of them has.
    let more = |rank: usize| (0..rank).map(|each| (format!("option {each}"), "on".to_owned())).collect();
    for found in on(2, |ranks| agree::<_, RanksError>(ranks, Ok(ranks.rank()), |&rank| more(rank))) {
        assert!(found.unwrap_err().to_string().ends_with("another option 0 than rank 0: on, not none"));
    }
    assert_eq!(on(3, |ranks| agree::<_, RanksError>(ranks, Ok(ranks.rank()), |_| options(0))), [Ok(0), Ok(1), Ok(2)]);
    assert_eq!(agree::<_, RanksError>(&Alone, Ok("alone"), |_| options(0)), Ok("alone"));
}
