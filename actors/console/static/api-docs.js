// The OpenAPI description of the REST port, as a list that people read.

const described = await (await fetch("/openapi.json")).json();

function add(parent, name, text, kind) {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  parent.append(element);
  return element;
}

const names = (content) =>
  Object.values(content ?? {}).map(({ schema }) => schema?.$ref?.split("/").at(-1) ?? schema?.type).filter(Boolean);

document.getElementById("about").textContent = `${described.info.title} ${described.info.version}. ${described.info.description}`;
for (const [path, operations] of Object.entries(described.paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    if (method === "parameters") continue;
    const place = add(document.getElementById("operations"), "div", "", "operation");
    add(place, "code", `${method.toUpperCase()} ${path}`);
    add(place, "div", operation.summary);
    const asked = names(operation.requestBody?.content);
    const told = names(operation.responses["200"].content);
    const words = [asked.length ? `takes ${asked.join(" or ")}` : "", told.length ? `answers ${told.join(" or ")}` : ""];
    add(place, "div", words.filter(Boolean).join(", "), "note");
  }
}
