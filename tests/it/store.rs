//! Conditions of statements that requests cannot be made to meet at will.

use std::time::Duration;

use acs_token_vendor::{
    domain::{
        audit::{Action, Actor, Event, RequestContext},
        clock::Clock,
        user::{AcsId, UserRef},
    },
    store::{Bound, Mint, NewIdentity, Settings, Store},
};

use crate::support::{Database, database::on_each_database};

on_each_database! {
    /// A slow mint with an older time must not shorten the wait of the next revocation.
    async fn time_of_the_last_mint_never_moves_back(database) {
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        store.migrate().await.unwrap();
        let now = Clock::default().now();
        let (earlier, later) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        let user = UserRef::parse("test:alice").unwrap();
        let UserRef::AppUser(app_user) = &user else { panic!("not an id") };
        let claim = store.claim_new(app_user, store.read_user(&user, now).await.unwrap().global, now, later).await.unwrap().unwrap();
        let acs_id = AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_1").unwrap();
        let event = Event::new(Action::TokenMinted, Actor::Worker, claim.user.clone(), RequestContext::default());
        let new = NewIdentity {
            acs_id: &acs_id,
            resource: "default",
            expires_at: None,
            cached: None,
            bound: event.clone(),
            minted: None,
        };
        assert_eq!(store.bind(&claim, new, now).await.unwrap(), Bound::AndCurrent);
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        let record = async |acs_id: &AcsId, time| {
            let (user, generation, event) = (&read.id, read.generation, event.clone());
            let mint = Mint { user, acs_id, generation, expires_at: later, event, cached: None };
            store.record_mint(mint, time).await.unwrap()
        };
        for time in [later, earlier] {
            assert!(record(&acs_id, time).await);
        }
        assert_eq!(store.find_user(&user, now).await.unwrap().unwrap().last_minted_at, Some(later));
        let other = AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_2").unwrap();
        assert!(!record(&other, later).await, "another identity");
    }

    /// A claim after a change must not rest on a read from before it.
    async fn claim_needs_the_generation_that_was_read(database) {
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        store.migrate().await.unwrap();
        let now = Clock::default().now();
        let user = UserRef::parse("test:alice").unwrap();
        let UserRef::AppUser(app_user) = &user else { panic!("not an id") };
        let claim = store.claim_new(app_user, store.read_user(&user, now).await.unwrap().global, now, now).await.unwrap().unwrap();
        store.release_claim(&claim, None, now).await.unwrap();
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        let orphan = Event::new(Action::PossibleOrphan, Actor::Worker, claim.user.clone(), RequestContext::default());
        database.execute("UPDATE users SET generation = generation + 1").await;
        assert!(store.claim_again(&read, now, now, orphan.clone()).await.unwrap().is_none());
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        assert!(store.claim_again(&read, now, now, orphan.clone()).await.unwrap().is_some());
    }
}
