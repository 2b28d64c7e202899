package conformance;

import static conformance.Define.bareTo;
import static conformance.Define.to;

import com.fasterxml.jackson.databind.JsonNode;
import dev.restate.common.Request;
import dev.restate.common.RequestBuilder;
import dev.restate.common.Target;
import dev.restate.sdk.Context;
import dev.restate.sdk.DurableFuture;
import dev.restate.sdk.RestateRandom;
import dev.restate.sdk.common.TerminalException;
import dev.restate.sdk.endpoint.definition.ServiceDefinition;
import dev.restate.serde.Serde;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** Input, output, runs, calls. Version 2.4 of the SDK has no signals by name. */
final class Basics {
  static List<ServiceDefinition> all() {
    return List.of(basics(), relay(), hidden());
  }

  private static List<String> draw(RestateRandom random) {
    return List.of(Double.toString(random.nextDouble()), random.nextUUID().toString());
  }

  private static ServiceDefinition basics() {
    return Define.service("Basics")
        .handler("echo", (Context ctx, JsonNode text) -> text)
        .handler("shout", (Context ctx, JsonNode text) -> text.asText().toUpperCase(Locale.ROOT))
        .bare("headers", (Context ctx) -> ctx.request().headers())
        .bytes("bytes")
        .bare("nothing", (Context ctx) -> null)
        .handler(
            "nap",
            (Context ctx, JsonNode ms) -> {
              ctx.sleep(Duration.ofMillis(ms.asLong()));
              return "rested";
            })
        .bare("ownId", (Context ctx) -> ctx.request().invocationId().toString())
        .handler(
            "steps",
            (Context ctx, JsonNode count) -> {
              List<String> done = new ArrayList<>();
              for (int step = 1; step <= count.asInt(); step++) {
                String text = "done-" + step;
                done.add(ctx.run("step-" + step, String.class, () -> text));
              }
              return done;
            })
        .handler(
            "countRuns",
            (Context ctx, JsonNode count) -> {
              int[] executed = {0};
              for (int run = 0; run < count.asInt(); run++) {
                ctx.run("count", () -> executed[0]++);
              }
              return executed[0];
            })
        .bare(
            "random",
            (Context ctx) -> {
              // Every call of random() begins with the seed again.
              RestateRandom random = ctx.random();
              List<String> before = draw(random);
              JsonNode kept = ctx.run("kept", Define.JSON, () -> Define.tree(before));
              ctx.sleep(Duration.ofMillis(20));
              List<String> again = draw(random);
              JsonNode keptAgain = ctx.run("kept again", Define.JSON, () -> Define.tree(again));
              boolean same = Define.tree(before).equals(kept) && Define.tree(again).equals(keptAgain);
              List<JsonNode> values = new ArrayList<>();
              kept.forEach(values::add);
              keptAgain.forEach(values::add);
              return Map.of("same", same, "values", values);
            })
        .handler(
            "fanOut",
            (Context ctx, JsonNode count) -> {
              List<DurableFuture<?>> calls = new ArrayList<>();
              for (int call = 0; call < count.asInt(); call++) {
                calls.add(ctx.call(to(Target.service("Basics", "echo"), Integer.toString(call))));
              }
              DurableFuture.all(calls).await();
              int sum = 0;
              for (DurableFuture<?> call : calls) {
                sum += ((JsonNode) call.await()).asInt();
              }
              return sum;
            })
        .handler(
            "callShout",
            (Context ctx, JsonNode text) -> ctx.call(to(Target.service("Basics", "shout"), text)).await())
        .handler(
            "callWithHeader",
            (Context ctx, JsonNode value) ->
                ctx.call(
                        Request.of(Target.service("Basics", "headers"), Serde.VOID, Define.JSON, null)
                            .header("x-passed-on", value.asText())
                            .build())
                    .await()
                    .path("x-passed-on")
                    .asText())
        .handler(
            "cancelOther",
            (Context ctx, JsonNode id) -> {
              ctx.invocationHandle(id.asText()).cancel();
              return null;
            })
        .handler(
            "attachTo",
            (Context ctx, JsonNode id) -> ctx.invocationHandle(id.asText(), Define.JSON).attach().await())
        .bare(
            "callAndCancel",
            (Context ctx) -> {
              var call = ctx.call(to(Target.service("Basics", "nap"), 3_600_000));
              call.cancel();
              try {
                return call.await();
              } catch (TerminalException failure) {
                return Integer.toString(failure.getCode());
              }
            })
        .done();
  }

  private static Request<byte[], byte[]> outgoing(JsonNode sent) {
    String service = sent.get("service").asText();
    String handler = sent.get("handler").asText();
    Target target =
        sent.hasNonNull("key")
            ? Target.virtualObject(service, sent.get("key").asText(), handler)
            : Target.service(service, handler);
    byte[] message = sent.get("message").asText().getBytes(StandardCharsets.UTF_8);
    RequestBuilder<byte[], byte[]> request = Request.of(target, message);
    if (sent.hasNonNull("idempotencyKey")) {
      request.idempotencyKey(sent.get("idempotencyKey").asText());
    }
    return request.build();
  }

  private static ServiceDefinition relay() {
    return Define.service("Relay")
        .handler(
            "call",
            (Context ctx, JsonNode sent) ->
                new String(ctx.call(outgoing(sent)).await(), StandardCharsets.UTF_8))
        .handler(
            "send",
            (Context ctx, JsonNode sent) ->
                (sent.hasNonNull("delayMs")
                        ? ctx.send(outgoing(sent), Duration.ofMillis(sent.get("delayMs").asLong()))
                        : ctx.send(outgoing(sent)))
                    .invocationId())
        .handler(
            "many",
            (Context ctx, JsonNode all) -> {
              List<DurableFuture<byte[]>> calls = new ArrayList<>();
              for (JsonNode sent : all) {
                if (sent.get("oneWay").asBoolean()) {
                  ctx.send(outgoing(sent));
                } else {
                  calls.add(ctx.call(outgoing(sent)));
                }
              }
              calls.forEach(DurableFuture::await);
              return null;
            })
        .done();
  }

  private static ServiceDefinition hidden() {
    return Define.service("Hidden")
        .handler("greet", (Context ctx, JsonNode name) -> "Hello " + name.asText())
        .done()
        .configure(options -> options.ingressPrivate(true));
  }

  static JsonNode call(Context ctx, String service, String key, String handler) {
    return ctx.call(bareTo(Target.virtualObject(service, key, handler))).await();
  }

  private Basics() {}
}
