package conformance;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.restate.common.Request;
import dev.restate.common.Target;
import dev.restate.sdk.Context;
import dev.restate.sdk.HandlerRunner;
import dev.restate.sdk.common.StateKey;
import dev.restate.sdk.endpoint.definition.HandlerDefinition;
import dev.restate.sdk.endpoint.definition.HandlerType;
import dev.restate.sdk.endpoint.definition.ServiceDefinition;
import dev.restate.sdk.endpoint.definition.ServiceType;
import dev.restate.serde.Serde;
import dev.restate.serde.jackson.JacksonSerdeFactory;
import java.util.ArrayList;
import java.util.List;

/** Defines services without generated code; everything is JSON. */
final class Define {
  static final ObjectMapper MAPPER = new ObjectMapper();
  static final Serde<JsonNode> JSON = JacksonSerdeFactory.DEFAULT.create(JsonNode.class);

  interface Handler<C extends Context> {
    Object handle(C context, JsonNode input) throws Throwable;
  }

  interface Bare<C extends Context> {
    Object handle(C context) throws Throwable;
  }

  private final String name;
  private final ServiceType type;
  private final List<HandlerDefinition<?, ?>> handlers = new ArrayList<>();

  private Define(String name, ServiceType type) {
    this.name = name;
    this.type = type;
  }

  static Define service(String name) {
    return new Define(name, ServiceType.SERVICE);
  }

  static Define object(String name) {
    return new Define(name, ServiceType.VIRTUAL_OBJECT);
  }

  static Define workflow(String name) {
    return new Define(name, ServiceType.WORKFLOW);
  }

  /** Services have no keys, and their handlers none to be exclusive about; the manifest wants a kind all the same. */
  private HandlerType own() {
    return type == ServiceType.VIRTUAL_OBJECT ? HandlerType.EXCLUSIVE : HandlerType.SHARED;
  }

  <C extends Context> Define handler(String handler, Handler<C> code) {
    return add(handler, own(), code);
  }

  <C extends Context> Define bare(String handler, Bare<C> code) {
    return addBare(handler, own(), code);
  }

  <C extends Context> Define shared(String handler, Handler<C> code) {
    return add(handler, HandlerType.SHARED, code);
  }

  <C extends Context> Define sharedBare(String handler, Bare<C> code) {
    return addBare(handler, HandlerType.SHARED, code);
  }

  <C extends Context> Define main(Handler<C> code) {
    return add("run", HandlerType.WORKFLOW, code);
  }

  Define bytes(String handler) {
    HandlerRunner<byte[], byte[]> runner =
        HandlerRunner.of((Context ctx, byte[] bytes) -> bytes, JacksonSerdeFactory.DEFAULT, null);
    handlers.add(HandlerDefinition.of(handler, own(), Serde.RAW, Serde.RAW, runner).withAcceptContentType("*/*"));
    return this;
  }

  private <C extends Context> Define add(String handler, HandlerType kind, Handler<C> code) {
    HandlerRunner<JsonNode, JsonNode> runner =
        HandlerRunner.of(
            (C ctx, JsonNode input) -> tree(code.handle(ctx, input)), JacksonSerdeFactory.DEFAULT, null);
    handlers.add(HandlerDefinition.of(handler, kind, JSON, JSON, runner));
    return this;
  }

  private <C extends Context> Define addBare(String handler, HandlerType kind, Bare<C> code) {
    HandlerRunner<Void, JsonNode> runner =
        HandlerRunner.of((C ctx) -> tree(code.handle(ctx)), JacksonSerdeFactory.DEFAULT, null);
    handlers.add(HandlerDefinition.of(handler, kind, Serde.VOID, JSON, runner));
    return this;
  }

  ServiceDefinition done() {
    return ServiceDefinition.of(name, type, handlers);
  }

  static JsonNode tree(Object value) {
    return MAPPER.valueToTree(value);
  }

  static Request<JsonNode, JsonNode> to(Target target, Object input) {
    return Request.of(target, JSON, JSON, tree(input)).build();
  }

  /** To a handler without input. */
  static Request<Void, JsonNode> bareTo(Target target) {
    return Request.of(target, Serde.VOID, JSON, null).build();
  }

  static StateKey<JsonNode> key(String name) {
    return StateKey.of(name, JSON);
  }

}
