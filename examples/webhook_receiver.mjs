// Receives events of the billing service, verifies them, and acts once on each.
//
//     npm install standardwebhooks@1.1.1
//     WEBHOOK_SECRET=whsec_... node webhook_receiver.mjs 8090
//
// PutWebhook shows the secret once. While it is replaced, the service signs with the old and the new one, so this
// program needs one of them only: start it again with the new secret before the old one ends.
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

// Far above any event.
const MAX_BODY = 1024 * 1024;
const webhook = new Webhook(process.env.WEBHOOK_SECRET);
// A real receiver keeps the ids in its database, in the transaction of the effect of each event.
const seen = new Set();

// The effect of an event. It must be done before the answer, because a good answer ends the deliveries.
function actOn({ type, id, data }) {
  console.log(JSON.stringify({ type, id, data }));
}

async function bodyOf(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MAX_BODY) return undefined;
    chunks.push(chunk);
  }
  // The signature is that of the text as it was sent.
  return Buffer.concat(chunks).toString("utf8");
}

const server = createServer(async (request, response) => {
  const body = await bodyOf(request);
  if (body === undefined) return response.writeHead(413).end();
  let event;
  try {
    event = webhook.verify(body, request.headers);
  } catch {
    return response.writeHead(400).end();
  }
  if (!seen.has(event.id)) {
    actOn(event);
    seen.add(event.id);
  }
  return response.writeHead(204).end();
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("listening"));
