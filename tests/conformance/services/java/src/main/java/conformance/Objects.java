package conformance;

import static conformance.Define.key;
import static conformance.Define.to;
import static conformance.Define.tree;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import dev.restate.common.Target;
import dev.restate.sdk.Awakeable;
import dev.restate.sdk.DurableFuture;
import dev.restate.sdk.ObjectContext;
import dev.restate.sdk.SharedObjectContext;
import dev.restate.sdk.SharedWorkflowContext;
import dev.restate.sdk.WorkflowContext;
import dev.restate.sdk.common.DurablePromiseKey;
import dev.restate.sdk.common.TerminalException;
import dev.restate.sdk.endpoint.definition.ServiceDefinition;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** State, workflows, and what is cancelled and killed. */
final class Objects {
  private static final Duration HOUR = Duration.ofHours(1);
  private static final DurablePromiseKey<String> GATE = DurablePromiseKey.of("gate", String.class);

  static List<ServiceDefinition> all() {
    return List.of(
        counter(), map(), list(), holder(), gate(), cancelRunner(), cancelBlocker(), killRunner(), killChain());
  }

  private static long count(SharedObjectContext ctx) {
    return ctx.get(key("count")).map(JsonNode::asLong).orElse(0L);
  }

  private static Object add(ObjectContext ctx, long before, long amount) {
    ctx.set(key("count"), tree(before + amount));
    return Map.of("before", before, "after", before + amount);
  }

  private static ServiceDefinition counter() {
    return Define.object("Counter")
        .handler("add", (ObjectContext ctx, JsonNode amount) -> add(ctx, count(ctx), amount.asLong()))
        .handler(
            "slowAdd",
            (ObjectContext ctx, JsonNode slow) -> {
              long before = count(ctx);
              ctx.sleep(Duration.ofMillis(slow.get("ms").asLong()));
              return add(ctx, before, slow.get("amount").asLong());
            })
        .handler(
            "addThenFail",
            (ObjectContext ctx, JsonNode amount) -> {
              add(ctx, count(ctx), amount.asLong());
              throw new TerminalException(ctx.key());
            })
        .bare(
            "reset",
            (ObjectContext ctx) -> {
              ctx.clear(key("count"));
              return null;
            })
        .sharedBare("get", (SharedObjectContext ctx) -> count(ctx))
        .sharedBare("ownKey", (SharedObjectContext ctx) -> ctx.key())
        .done();
  }

  static String read(SharedObjectContext ctx, String name, String otherwise) {
    return ctx.get(key(name)).map(JsonNode::asText).orElse(otherwise);
  }

  private static List<String> names(SharedObjectContext ctx) {
    return ctx.stateKeys().stream().sorted().toList();
  }

  private static ServiceDefinition map() {
    return Define.object("Map")
        .handler(
            "put",
            (ObjectContext ctx, JsonNode entry) -> {
              ctx.set(key(entry.get("name").asText()), entry.get("value"));
              return null;
            })
        .shared("read", (SharedObjectContext ctx, JsonNode name) -> read(ctx, name.asText(), ""))
        .sharedBare("names", (SharedObjectContext ctx) -> names(ctx))
        .handler(
            "forget",
            (ObjectContext ctx, JsonNode name) -> {
              ctx.clear(key(name.asText()));
              return null;
            })
        .bare(
            "clear",
            (ObjectContext ctx) -> {
              List<Map<String, String>> entries = new ArrayList<>();
              for (String name : names(ctx)) {
                entries.add(Map.of("name", name, "value", read(ctx, name, "")));
              }
              ctx.clearAll();
              return entries;
            })
        .bare(
            "juggle",
            (ObjectContext ctx) -> {
              List<String> seen = new ArrayList<>();
              ctx.set(key("a"), tree("1"));
              seen.add(read(ctx, "a", "none"));
              ctx.set(key("b"), tree("2"));
              ctx.clear(key("a"));
              seen.add(read(ctx, "a", "none"));
              ctx.clearAll();
              seen.add(read(ctx, "b", "none"));
              seen.add(String.join(",", names(ctx)));
              ctx.set(key("c"), tree("3"));
              seen.add(read(ctx, "c", "none"));
              return seen;
            })
        .done();
  }

  static ArrayNode listOf(SharedObjectContext ctx, String name) {
    return (ArrayNode) ctx.get(key(name)).orElseGet(Define.MAPPER::createArrayNode);
  }

  private static ServiceDefinition list() {
    return Define.object("List")
        .handler(
            "append",
            (ObjectContext ctx, JsonNode text) -> {
              ctx.set(key("list"), listOf(ctx, "list").add(text));
              return null;
            })
        .sharedBare("get", (SharedObjectContext ctx) -> listOf(ctx, "list"))
        .bare(
            "clear",
            (ObjectContext ctx) -> {
              JsonNode list = listOf(ctx, "list");
              ctx.clear(key("list"));
              return list;
            })
        .done();
  }

  private static String held(ObjectContext ctx) {
    String id = read(ctx, "id", "");
    if (id.isEmpty()) {
      throw new TerminalException("nothing is held");
    }
    ctx.clear(key("id"));
    return id;
  }

  static Target hold(String key) {
    return Target.virtualObject("Holder", key, "hold");
  }

  private static ServiceDefinition holder() {
    return Define.object("Holder")
        .handler(
            "hold",
            (ObjectContext ctx, JsonNode id) -> {
              ctx.set(key("id"), id);
              return null;
            })
        .sharedBare("holds", (SharedObjectContext ctx) -> read(ctx, "id", ""))
        .handler(
            "release",
            (ObjectContext ctx, JsonNode payload) -> {
              ctx.awakeableHandle(held(ctx)).resolve(Define.JSON, payload);
              return null;
            })
        .handler(
            "refuse",
            (ObjectContext ctx, JsonNode reason) -> {
              ctx.awakeableHandle(held(ctx)).reject(reason.asText());
              return null;
            })
        .sharedBare(
            "waitHeld",
            (SharedObjectContext ctx) -> {
              Awakeable<String> awakeable = ctx.awakeable(String.class);
              ctx.send(to(hold(ctx.key()), awakeable.id()));
              return "got " + awakeable.await();
            })
        .done();
  }

  private static ServiceDefinition gate() {
    return Define.workflow("Gate")
        .main(
            (WorkflowContext ctx, JsonNode input) -> {
              ctx.set(key("status"), tree("waiting"));
              String value = ctx.promise(GATE).future().await();
              ctx.set(key("status"), tree("through"));
              return input.asText() + " " + value;
            })
        .shared(
            "open",
            (SharedWorkflowContext ctx, JsonNode value) -> {
              ctx.promiseHandle(GATE).resolve(value.asText());
              return null;
            })
        .shared(
            "shut",
            (SharedWorkflowContext ctx, JsonNode reason) -> {
              ctx.promiseHandle(GATE).reject(reason.asText());
              return null;
            })
        .sharedBare("peek", (SharedWorkflowContext ctx) -> ctx.promise(GATE).peek().orElse(""))
        .sharedBare("wait", (SharedWorkflowContext ctx) -> ctx.promise(GATE).future().await())
        .sharedBare("status", (SharedWorkflowContext ctx) -> read(ctx, "status", ""))
        .done();
  }

  private static ServiceDefinition cancelRunner() {
    return Define.object("CancelRunner")
        .handler(
            "start",
            (ObjectContext ctx, JsonNode operation) -> {
              try {
                ctx.call(to(Target.virtualObject("CancelBlocker", ctx.key(), "block"), operation)).await();
              } catch (TerminalException failure) {
                if (failure.getCode() != 409) {
                  throw failure;
                }
                ctx.set(key("cancelled"), tree(true));
              }
              return null;
            })
        .bare("wasCancelled", (ObjectContext ctx) -> ctx.get(key("cancelled")).isPresent())
        .done();
  }

  private static ServiceDefinition cancelBlocker() {
    return Define.object("CancelBlocker")
        .handler(
            "block",
            (ObjectContext ctx, JsonNode operation) -> {
              Awakeable<String> awakeable = ctx.awakeable(String.class);
              ctx.call(to(hold(ctx.key()), awakeable.id())).await();
              awakeable.await();
              switch (operation.asText()) {
                case "call" ->
                    ctx.call(to(Target.virtualObject("CancelBlocker", ctx.key(), "block"), operation)).await();
                case "sleep" -> ctx.sleep(HOUR);
                case "awakeable" -> ctx.awakeable(String.class).await();
                case "race" -> DurableFuture.any(ctx.timer(HOUR), ctx.awakeable(String.class)).await();
                case "attach" ->
                    ctx.invocationHandle(ctx.request().invocationId().toString(), Define.JSON).attach().await();
                default -> throw new TerminalException("no operation " + operation);
              }
              return null;
            })
        .bare("unlocked", (ObjectContext ctx) -> null)
        .done();
  }

  private static ServiceDefinition killRunner() {
    return Define.object("KillRunner")
        .bare("start", (ObjectContext ctx) -> Basics.call(ctx, "KillChain", ctx.key(), "recurse"))
        .done();
  }

  private static ServiceDefinition killChain() {
    return Define.object("KillChain")
        .bare(
            "recurse",
            (ObjectContext ctx) -> {
              Awakeable<String> awakeable = ctx.awakeable(String.class);
              ctx.send(to(hold(ctx.key()), awakeable.id()));
              awakeable.await();
              return Basics.call(ctx, "KillChain", ctx.key(), "recurse");
            })
        .bare("unlocked", (ObjectContext ctx) -> null)
        .done();
  }

  private Objects() {}
}
