// Home: a key for every door.

import { addKeys } from "./keys.js";
import { send } from "./api.js";
import { toast } from "./toast.js";

addKeys([...document.querySelectorAll("[data-door]")].map((door) => ({
  keys: [door.dataset.door], says: door.dataset.says, run: () => door.click(),
})));

const search = document.getElementById("find");
if (search) {
  addKeys([{ keys: ["/"], says: "find an image", run: () => search.querySelector("input").focus() }]);
  search.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      // sent in the body: a name may tell who the patient is, and addresses are written down
      const { images } = await send("/api/find", { text: search.querySelector("input").value });
      const list = document.getElementById("found");
      list.replaceChildren(...images.map(({ id, file }) => {
        const link = document.createElement("a");
        link.href = `/image/${id}`;
        link.textContent = file;
        const row = document.createElement("li");
        row.append(link);
        return row;
      }));
      if (!images.length) toast("No image has this in its name.");
    } catch (error) {
      toast(error.message, { bad: true });
    }
  });
}

const closing = document.getElementById("close");
if (closing) {
  const sure = document.getElementById("give-up");
  const close = async (giveUp) => {
    closing.disabled = true;
    try {
      await send("/api/audit/finish", { give_up: giveUp });
      location.reload();
    } catch (error) {
      closing.disabled = false;
      toast(error.message, { bad: true });
    }
  };
  closing.addEventListener("click", () => {
    if ("givesUp" in closing.dataset) sure.showModal();
    else close(false);
  });
  for (const button of sure.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      sure.close();
      if (button.value === "yes") close(true);
    });
  }
  addKeys([{ keys: ["c"], says: "close the audit", run: () => closing.click() }]);
}
