package conformance;

import dev.restate.sdk.endpoint.Endpoint;
import dev.restate.sdk.http.vertx.RestateHttpServer;
import io.vertx.core.http.HttpServerOptions;

/**
 * The conformance services with Java's SDK; CONTRACT.md says what each handler does.
 *
 * <p>Listens on PORT, or on a free port, and prints it: "listening on 127.0.0.1:PORT".
 */
public final class Main {
  public static void main(String[] arguments) {
    Endpoint.Builder endpoint = new Endpoint.Builder();
    Basics.all().forEach(endpoint::bind);
    Objects.all().forEach(endpoint::bind);
    Failures.all().forEach(endpoint::bind);
    Programs.all().forEach(endpoint::bind);
    String port = System.getenv().getOrDefault("PORT", "0");
    HttpServerOptions options =
        new HttpServerOptions().setHost("127.0.0.1").setPort(Integer.parseInt(port)).setInitialSettings(
            new io.vertx.core.http.Http2Settings().setMaxConcurrentStreams(Integer.MAX_VALUE));
    RestateHttpServer.fromEndpoint(endpoint.build(), options)
        .listen()
        .onSuccess(server -> System.out.println("listening on 127.0.0.1:" + server.actualPort()))
        .onFailure(
            failure -> {
              failure.printStackTrace();
              System.exit(1);
            });
  }

  private Main() {}
}
