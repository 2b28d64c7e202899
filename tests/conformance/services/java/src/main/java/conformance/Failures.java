package conformance;

import static conformance.Define.key;
import static conformance.Define.to;
import static conformance.Define.tree;

import com.fasterxml.jackson.databind.JsonNode;
import dev.restate.common.Target;
import dev.restate.sdk.Awakeable;
import dev.restate.sdk.Context;
import dev.restate.sdk.ObjectContext;
import dev.restate.sdk.SharedObjectContext;
import dev.restate.sdk.common.RetryPolicy;
import dev.restate.sdk.common.TerminalException;
import dev.restate.sdk.endpoint.definition.InvocationRetryPolicy;
import dev.restate.sdk.endpoint.definition.ServiceDefinition;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/** Failures, retries, and services that change, break and forget. */
final class Failures {
  // What this process remembers by name, outside of any journal on purpose.
  private static final Map<String, Integer> ATTEMPTS = new ConcurrentHashMap<>();
  private static final Set<String> MENDED = ConcurrentHashMap.newKeySet();
  private static final String VERSION = System.getenv().getOrDefault("CONFORMANCE_VERSION", "1");

  static List<ServiceDefinition> all() {
    return List.of(failures(), drifting(), versioned(), fragile(), shortLived());
  }

  private static int countAttempt(String name) {
    return ATTEMPTS.merge(name, 1, Integer::sum);
  }

  private static int failUntil(String name, int needed) {
    int attempt = countAttempt(name);
    if (attempt < needed) {
      throw new IllegalStateException("attempt " + attempt + " fails on purpose");
    }
    return attempt;
  }

  private static TerminalException terminal(JsonNode failure) {
    int code = failure.hasNonNull("code") ? failure.get("code").asInt() : 500;
    return new TerminalException(code, failure.get("message").asText());
  }

  private static RetryPolicy fast() {
    return RetryPolicy.exponential(Duration.ofMillis(10), 1);
  }

  private static JsonNode callFailing(ObjectContext ctx, JsonNode failure) {
    Target target = Target.virtualObject("Failures", ctx.random().nextUUID().toString(), "failTerminal");
    return ctx.call(to(target, failure)).await();
  }

  private static ServiceDefinition failures() {
    return Define.object("Failures")
        .handler(
            "failTerminal",
            (ObjectContext ctx, JsonNode failure) -> {
              throw terminal(failure);
            })
        .handler("callFailing", (ObjectContext ctx, JsonNode failure) -> callFailing(ctx, failure))
        .handler(
            "catchFailing",
            (ObjectContext ctx, JsonNode failure) -> {
              try {
                return callFailing(ctx, failure);
              } catch (TerminalException caught) {
                return "caught " + caught.getCode() + ": " + caught.getMessage();
              }
            })
        .handler(
            "failInRun",
            (ObjectContext ctx, JsonNode failure) -> {
              ctx.run(
                  "fails",
                  () -> {
                    throw terminal(failure);
                  });
              return null;
            })
        .handler(
            "failUntil",
            (ObjectContext ctx, JsonNode needed) -> failUntil("failUntil " + ctx.key(), needed.asInt()))
        .handler(
            "runUntil",
            (ObjectContext ctx, JsonNode needed) ->
                ctx.run(
                    "retried",
                    Integer.class,
                    fast(),
                    () -> failUntil("runUntil " + ctx.key(), needed.asInt())))
        .handler(
            "runExhausted",
            (ObjectContext ctx, JsonNode most) -> {
              String name = "runExhausted " + ctx.key();
              RetryPolicy policy = fast().setMaxAttempts(most.asInt());
              try {
                ctx.run("exhausted", Integer.class, policy, () -> failUntil(name, 1_000_000));
                return -1;
              } catch (TerminalException failure) {
                return ctx.run("attempts", Integer.class, () -> ATTEMPTS.getOrDefault(name, 0));
              }
            })
        .done();
  }

  private static boolean isOdd(ObjectContext ctx, String handler) {
    return countAttempt(handler + " " + ctx.key()) % 2 == 1;
  }

  private static Object add(ObjectContext ctx) {
    ctx.send(to(Target.virtualObject("Counter", ctx.key(), "add"), 1));
    return null;
  }

  private static ServiceDefinition drifting() {
    return Define.object("Drifting")
        .bare(
            "sleepOrCall",
            (ObjectContext ctx) -> {
              if (isOdd(ctx, "sleepOrCall")) {
                ctx.sleep(Duration.ofMillis(100));
              } else {
                Basics.call(ctx, "Counter", "drift", "get");
              }
              return add(ctx);
            })
        .bare(
            "callDifferent",
            (ObjectContext ctx) -> {
              Basics.call(ctx, "Counter", "drift", isOdd(ctx, "callDifferent") ? "get" : "reset");
              return add(ctx);
            })
        .bare(
            "sendDifferent",
            (ObjectContext ctx) -> {
              String handler = isOdd(ctx, "sendDifferent") ? "get" : "reset";
              ctx.send(Define.bareTo(Target.virtualObject("Counter", "drift", handler)));
              ctx.sleep(Duration.ofMillis(100));
              return add(ctx);
            })
        .bare(
            "setDifferent",
            (ObjectContext ctx) -> {
              ctx.set(key(isOdd(ctx, "setDifferent") ? "a" : "b"), tree("value"));
              ctx.sleep(Duration.ofMillis(100));
              return add(ctx);
            })
        .done()
        .configure(
            options ->
                options.invocationRetryPolicy(
                    InvocationRetryPolicy.builder()
                        .initialInterval(Duration.ofMillis(1))
                        .maxAttempts(1)
                        .onMaxAttempts(InvocationRetryPolicy.OnMaxAttempts.KILL)));
  }

  private static ServiceDefinition versioned() {
    return Define.object("Versioned")
        .bare("version", (ObjectContext ctx) -> VERSION)
        .bare(
            "spanning",
            (ObjectContext ctx) -> {
              Awakeable<String> awakeable = ctx.awakeable(String.class);
              ctx.call(to(Objects.hold(ctx.key()), awakeable.id())).await();
              return List.of(VERSION, awakeable.await(), VERSION);
            })
        .done();
  }

  private static ServiceDefinition fragile() {
    return Define.object("Fragile")
        .handler(
            "echo",
            (ObjectContext ctx, JsonNode text) -> {
              if (!MENDED.contains(ctx.key())) {
                throw new IllegalStateException("broken on purpose");
              }
              return text;
            })
        .handler(
            "runThenFail",
            (ObjectContext ctx, JsonNode text) -> {
              boolean whole = MENDED.contains(ctx.key());
              String value = ctx.run("value", String.class, () -> whole ? "new" : "old");
              if (!MENDED.contains(ctx.key())) {
                throw new TerminalException("broken on purpose");
              }
              return text.asText() + " from " + value;
            })
        .bare(
            "versionOrFail",
            (ObjectContext ctx) -> {
              if (VERSION.equals("1")) {
                throw new IllegalStateException("broken in version 1");
              }
              return VERSION;
            })
        .sharedBare(
            "mend",
            (SharedObjectContext ctx) -> {
              MENDED.add(ctx.key());
              return null;
            })
        .done()
        .configure(
            options ->
                options.invocationRetryPolicy(
                    InvocationRetryPolicy.builder()
                        .initialInterval(Duration.ofMillis(5))
                        .maxInterval(Duration.ofMillis(5))
                        .maxAttempts(3)
                        .onMaxAttempts(InvocationRetryPolicy.OnMaxAttempts.PAUSE)));
  }

  private static ServiceDefinition shortLived() {
    return Define.service("Short")
        .handler(
            "attempt",
            (Context ctx, JsonNode name) ->
                ctx.run("count", Integer.class, () -> countAttempt("short " + name.asText())))
        .done()
        .configure(
            options -> options.idempotencyRetention(Duration.ofSeconds(2)).journalRetention(Duration.ZERO));
  }

  private Failures() {}
}
