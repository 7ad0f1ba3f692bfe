//! TLS to MariaDB with `tls=` in `data.database.source`.

use billing_service::app;

use super::certificates::Certificates;
use crate::harness::{
    Database, Service, charge,
    mariadb::OwnServer,
    process::{SERVER, run},
};

/// A server that only accepts TLS.
async fn server(certificates: &Certificates) -> OwnServer {
    // Leaked, so that the options live as long as the test.
    let option = |name: &str, file: &str| -> &'static str { format!("--{name}={}", certificates.file(file)).leak() };
    let options = vec![
        option("ssl-cert", "server.pem"),
        option("ssl-key", "server-key.pem"),
        option("ssl-ca", "ca.pem"),
        "--require-secure-transport=ON",
    ];
    OwnServer::start_with(options.leak()).await
}

/// Connects to the database. Returns the error of a failure.
async fn connects(source: &str, keys: &[(&str, &str)]) -> Result<(), String> {
    let soon = ("data.database.connect_timeout", "1s");
    let config = Database::on(source.to_owned()).config(&[&[soon], keys].concat());
    match app::connect(&config).await {
        Ok(store) => {
            app::close(&*store).await;
            Ok(())
        }
        Err(error) => Err(format!("{error:#}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_and_the_service_prove_themselves_with_certificates() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let (ca, other) = (certificates.file("ca.pem"), others.file("ca.pem"));
    let server = server(&certificates).await;
    let plain = server.create_database().await;
    let with = |tls: &str| format!("{plain}&tls={tls}");

    let service = Service::start_on(Database::on(with("custom")), &[("data.database.ca_file", &ca)]).await;
    assert_eq!(service.deduct(charge("u", "asset", 1)).await.free_remaining, 999);
    for unverified in ["skip-verify", "preferred"] {
        connects(&with(unverified), &[]).await.unwrap();
    }
    let refused = connects(&with("custom"), &[("data.database.ca_file", &other)]).await.unwrap_err();
    assert!(refused.contains("data.database.source") && refused.contains("UnknownIssuer"), "{refused}");
    let refused = connects(&with("true"), &[]).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    connects(&with("false"), &[]).await.unwrap_err();
    // The certificate is only valid for 127.0.0.1.
    let misnamed = with("custom").replace("127.0.0.1", "localhost");
    let refused = connects(&misnamed, &[("data.database.ca_file", &ca)]).await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");

    for statement in ["CREATE USER billing@'%' IDENTIFIED BY 'pw' REQUIRE X509", "GRANT ALL ON *.* TO billing@'%'"] {
        Database::on(with("skip-verify")).execute(statement).await;
    }
    let as_billing = with("custom").replace("root@", "billing:pw@");
    connects(&as_billing, &[("data.database.ca_file", &ca)]).await.unwrap_err();
    let (cert, key) = (certificates.file("client.pem"), certificates.file("client-key.pem"));
    let keys =
        [("data.database.ca_file", &*ca), ("data.database.cert_file", &*cert), ("data.database.key_file", &*key)];
    connects(&as_billing, &keys).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_true_trusts_the_authorities_of_the_system() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let server = server(&certificates).await;
    let database = Database::on(format!("{}&tls=true", server.create_database().await));
    let conf = database.config_file(&[("data.database.connect_timeout", "1s")]);
    let migrate = |store: &str| {
        run(
            SERVER,
            &["-conf", conf.to_str().unwrap(), "--migrate-only"],
            &[("SSL_CERT_FILE", store), ("SSL_CERT_DIR", "")],
        )
    };
    let refused = migrate(&others.file("ca.pem"));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let done = migrate(&certificates.file("ca.pem"));
    assert_eq!(done.status.code(), Some(0), "{done:?}");
}
