// The library for Node against the service: videos.mjs BASE_URL KEY IMAGE. It ends with 0 if all went well.
import assert from "node:assert/strict";
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const [baseURL, apiKey, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
let steps = 0;
const step = async (what) => { await what(); steps += 1; };
const bytes = async (answer) => Buffer.from(await answer.arrayBuffer());
let video;

await step(async () => {
  video = await client.videos.create({
    prompt: "A dog", seconds: "2", size: "480x832", input_reference: fs.createReadStream(image),
  });
  assert.equal(video.object, "video");
  assert.match(video.status, /^(queued|in_progress)$/);
});
await step(async () => {
  const end = Date.now() + 60_000;
  while (video.status === "queued" || video.status === "in_progress") {
    assert.ok(Date.now() < end, "the video was not made");
    await sleep(100);
    video = await client.videos.retrieve(video.id);
  }
  assert.equal(video.status, "completed", JSON.stringify(video.error));
});
await step(async () => {
  const mp4 = await bytes(await client.videos.downloadContent(video.id));
  assert.equal(mp4.subarray(4, 8).toString(), "ftyp");
  const jpeg = await bytes(await client.videos.downloadContent(video.id, { variant: "thumbnail" }));
  assert.equal(jpeg.subarray(0, 2).toString("hex"), "ffd8");
});
await step(async () => {
  const url = "data:image/png;base64," + fs.readFileSync(image).toString("base64");
  const other = await client.videos.create({ prompt: "A dog", input_reference: { image_url: url } });
  assert.deepEqual(await client.videos.delete(other.id), { id: other.id, object: "video.deleted", deleted: true });
});
await step(async () => {
  const made = [];
  for (let number = 0; number < 3; number += 1) {
    made.push((await client.videos.create({ prompt: `Page ${number}`, seconds: "1" })).id);
  }
  const listed = [];
  for await (const each of client.videos.list({ limit: 1, order: "desc" })) listed.push(each.id);
  assert.deepEqual(listed.slice(0, 3), made.reverse());
});
await step(() => assert.rejects(client.videos.create({ prompt: "A dog", n: 2 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.equal(error.param, "n");
  return true;
}));
await step(() => assert.rejects(client.videos.retrieve("video_123"), OpenAI.NotFoundError));
await step(() => assert.rejects(new OpenAI({ baseURL, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError));
await step(async () => {
  assert.deepEqual((await client.models.list()).data.map((model) => model.id), ["fast", "quality"]);
  await client.videos.delete(video.id);
});
console.log(JSON.stringify({ steps }));
