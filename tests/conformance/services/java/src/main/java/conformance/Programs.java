package conformance;

import static conformance.Define.bareTo;
import static conformance.Define.key;
import static conformance.Define.to;
import static conformance.Define.tree;

import com.fasterxml.jackson.databind.JsonNode;
import dev.restate.common.Target;
import dev.restate.sdk.Awakeable;
import dev.restate.sdk.Context;
import dev.restate.sdk.DurableFuture;
import dev.restate.sdk.ObjectContext;
import dev.restate.sdk.SharedObjectContext;
import dev.restate.sdk.common.TerminalException;
import dev.restate.sdk.common.TimeoutException;
import dev.restate.sdk.endpoint.definition.ServiceDefinition;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;

/** Runs lists of commands, and random programs whose effect on counters is known beforehand. */
final class Programs {
  static List<ServiceDefinition> all() {
    return List.of(commands(), fuzz(), helper());
  }

  private static DurableFuture<String> begin(ObjectContext ctx, JsonNode what) {
    switch (what.get("type").asText()) {
      case "awakeable":
        Awakeable<String> awakeable = ctx.awakeable(String.class);
        ctx.set(key("awakeable-" + what.get("name").asText()), tree(awakeable.id()));
        return awakeable;
      case "sleep":
        return ctx.timer(Duration.ofMillis(what.get("ms").asLong())).map(nothing -> "slept");
      case "run":
        return ctx.runAsync(
            "returns",
            String.class,
            () -> {
              Thread.sleep(1);
              return what.get("value").asText();
            });
      case "failingRun":
        return ctx.runAsync(
            "fails",
            String.class,
            () -> {
              throw new TerminalException(what.get("reason").asText());
            });
      default:
        throw new TerminalException("nothing begins with " + what);
    }
  }

  private static String execute(ObjectContext ctx, JsonNode command) throws Throwable {
    List<DurableFuture<String>> started = new ArrayList<>();
    command.path("of").forEach(what -> started.add(begin(ctx, what)));
    switch (command.get("type").asText()) {
      case "one":
        return started.get(0).await();
      case "first":
        return started.get(DurableFuture.any(new ArrayList<>(started)).await()).await();
      case "firstSuccess":
        TerminalException last = new TerminalException("nothing was started");
        while (!started.isEmpty()) {
          int first = started.size() == 1 ? 0 : DurableFuture.any(new ArrayList<>(started)).await();
          try {
            return started.remove(first).await();
          } catch (TerminalException failure) {
            last = failure;
          }
        }
        throw last;
      case "all":
        DurableFuture.all(new ArrayList<>(started)).await();
        List<String> values = new ArrayList<>();
        started.forEach(one -> values.add(one.await()));
        return String.join("|", values);
      case "settled":
        List<String> outcomes = new ArrayList<>();
        for (DurableFuture<String> one : started) {
          try {
            outcomes.add("ok:" + one.await());
          } catch (TerminalException failure) {
            outcomes.add("err:" + failure.getMessage());
          }
        }
        return String.join("|", outcomes);
      case "timeout":
        JsonNode what = tree(Map.of("type", "awakeable", "name", command.get("name")));
        try {
          return begin(ctx, what).await(Duration.ofMillis(command.get("ms").asLong()));
        } catch (TimeoutException timeout) {
          throw new TerminalException("timed out");
        }
      case "environment":
        return ctx.run(
            "environment",
            String.class,
            () -> System.getenv().getOrDefault(command.get("name").asText(), ""));
      default:
        throw new TerminalException("no command " + command);
    }
  }

  private static String awakeable(SharedObjectContext ctx, JsonNode by) {
    String id = Objects.read(ctx, "awakeable-" + by.get("name").asText(), "");
    if (id.isEmpty()) {
      throw new TerminalException("no awakeable " + by + " yet");
    }
    return id;
  }

  private static ServiceDefinition commands() {
    return Define.object("Commands")
        .handler(
            "run",
            (ObjectContext ctx, JsonNode program) -> {
              String result = "";
              for (JsonNode command : program) {
                result = execute(ctx, command);
                ctx.set(key("results"), Objects.listOf(ctx, "results").add(result));
              }
              return result;
            })
        .sharedBare("results", (SharedObjectContext ctx) -> Objects.listOf(ctx, "results"))
        .shared(
            "has",
            (SharedObjectContext ctx, JsonNode name) -> ctx.get(key("awakeable-" + name.asText())).isPresent())
        .shared(
            "resolve",
            (SharedObjectContext ctx, JsonNode by) -> {
              ctx.awakeableHandle(awakeable(ctx, by)).resolve(Define.JSON, by.get("value"));
              return null;
            })
        .shared(
            "reject",
            (SharedObjectContext ctx, JsonNode by) -> {
              ctx.awakeableHandle(awakeable(ctx, by)).reject(by.get("reason").asText());
              return null;
            })
        .done();
  }

  /** What was begun, and what must come of it; a failure where that is null. */
  private record Begun(DurableFuture<JsonNode> future, String expected) {}

  private static void check(boolean holds, String problem) {
    if (!holds) {
      throw new TerminalException(problem);
    }
  }

  private static void later(ObjectContext ctx, String handler, Object input) {
    ctx.send(to(Target.service("FuzzHelper", handler), input));
  }

  private static void increment(Context ctx, String key) {
    ctx.send(to(Target.virtualObject("Fuzz", key, "interpret"), List.of(Map.of("op", "increment"))));
  }

  private static void step(ObjectContext ctx, int index, JsonNode command, Map<Integer, Begun> begun) {
    String echo = "echo-" + index;
    String name = "key-" + command.path("key").asText();
    switch (command.get("op").asText()) {
      case "set" -> ctx.set(key(name), tree(name));
      case "get" -> {
        String value = Objects.read(ctx, name, name);
        check(value.equals(name), "read " + value);
      }
      case "clear" -> ctx.clear(key(name));
      case "increment" -> {
        long counter = ctx.get(key("counter")).map(JsonNode::asLong).orElse(0L);
        ctx.set(key("counter"), tree(counter + 1));
      }
      case "incrementLater" ->
          ctx.send(
              to(Target.service("FuzzHelper", "increment"), ctx.key()),
              Duration.ofMillis(command.get("ms").asLong()));
      case "sleep" -> ctx.sleep(Duration.ofMillis(command.get("ms").asLong()));
      case "run" -> {
        String value = ctx.run("value", String.class, () -> "run-" + index);
        check(value.equals("run-" + index), "a run changed its result");
      }
      case "slowRun" -> ctx.run("slow", () -> Thread.sleep(1));
      case "flakyRun" ->
          ctx.run(
              "flaky",
              () -> {
                if (ThreadLocalRandom.current().nextBoolean()) {
                  throw new IllegalStateException("fails on purpose");
                }
              });
      case "caughtCall" -> {
        String message = "";
        try {
          ctx.call(bareTo(Target.service("FuzzHelper", "fail"))).await();
        } catch (TerminalException failure) {
          message = failure.getMessage();
        }
        check(message.equals("always fails"), message);
      }
      case "call" -> {
        var call = ctx.call(to(Target.service("FuzzHelper", "echo"), echo));
        begun.put(index, new Begun(call, echo));
      }
      case "slowCall" -> {
        Object request = Map.of("ms", command.get("ms"), "text", echo);
        begun.put(index, new Begun(ctx.call(to(Target.service("FuzzHelper", "echoLater"), request)), echo));
      }
      case "failingCall" ->
          begun.put(index, new Begun(ctx.call(bareTo(Target.service("FuzzHelper", "fail"))), null));
      case "awakeable" -> {
        Awakeable<JsonNode> awakeable = ctx.awakeable(Define.JSON);
        later(ctx, "resolve", awakeable.id());
        begun.put(index, new Begun(awakeable, "resolved"));
      }
      case "rejectedAwakeable" -> {
        Awakeable<JsonNode> awakeable = ctx.awakeable(Define.JSON);
        later(ctx, "reject", awakeable.id());
        begun.put(index, new Begun(awakeable, null));
      }
      case "dance" -> {
        Awakeable<String> awakeable = ctx.awakeable(String.class);
        later(ctx, "dance", Map.of("key", ctx.key(), "id", awakeable.id()));
        ctx.awakeableHandle(awakeable.await()).resolve(String.class, "go");
      }
      case "nested" -> {
        Target target = Target.virtualObject("Fuzz", command.get("key").asText(), "interpret");
        begun.put(index, new Begun(ctx.call(to(target, command.get("program"))), "done"));
      }
      case "await" -> {
        Begun awaited = begun.remove(command.get("index").asInt());
        String outcome = null;
        try {
          outcome = awaited.future.await().asText();
        } catch (TerminalException failure) {
          check(awaited.expected == null, failure.getMessage());
        }
        check(java.util.Objects.equals(outcome, awaited.expected), outcome + " for " + awaited.expected);
      }
      default -> throw new TerminalException("no command " + command);
    }
  }

  private static ServiceDefinition fuzz() {
    return Define.object("Fuzz")
        .sharedBare(
            "counter", (SharedObjectContext ctx) -> ctx.get(key("counter")).map(JsonNode::asLong).orElse(0L))
        .handler(
            "interpret",
            (ObjectContext ctx, JsonNode program) -> {
              Map<Integer, Begun> begun = new HashMap<>();
              for (int index = 0; index < program.size(); index++) {
                step(ctx, index, program.get(index), begun);
              }
              return "done";
            })
        .done();
  }

  private static ServiceDefinition helper() {
    return Define.service("FuzzHelper")
        .handler("echo", (Context ctx, JsonNode text) -> text)
        .handler(
            "echoLater",
            (Context ctx, JsonNode later) -> {
              ctx.sleep(Duration.ofMillis(later.get("ms").asLong()));
              return later.get("text");
            })
        .bare(
            "fail",
            (Context ctx) -> {
              throw new TerminalException("always fails");
            })
        .handler(
            "increment",
            (Context ctx, JsonNode key) -> {
              increment(ctx, key.asText());
              return null;
            })
        .handler(
            "resolve",
            (Context ctx, JsonNode id) -> {
              ctx.awakeableHandle(id.asText()).resolve(String.class, "resolved");
              return null;
            })
        .handler(
            "reject",
            (Context ctx, JsonNode id) -> {
              ctx.awakeableHandle(id.asText()).reject("rejected on purpose");
              return null;
            })
        .handler(
            "dance",
            (Context ctx, JsonNode with) -> {
              Awakeable<String> awakeable = ctx.awakeable(String.class);
              ctx.awakeableHandle(with.get("id").asText()).resolve(String.class, awakeable.id());
              awakeable.await();
              increment(ctx, with.get("key").asText());
              return null;
            })
        .done();
  }

  private Programs() {}
}
