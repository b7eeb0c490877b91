// Of a page that `avflow view` serves: what the list does not hold of a sample comes when it is chosen.
const asked = new Map();

function moreOf(sample) {
  const key = `${state.run}/${sample.number}`;
  if (!asked.has(key)) asked.set(key, fetch(`sample/${key}.json`).then((answer) => (answer.ok ? answer.json() : { question: `The server says: ${answer.status} ${answer.statusText}` }),
    () => ({ question: "The server does not answer: is avflow view still running?" })));
  return asked.get(key);
}
