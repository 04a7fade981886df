// The form that freezes the labels and begins an audit.

import { send } from "./api.js";
import "./keys.js";
import { toast } from "./toast.js";

const form = document.getElementById("start");
const loss = form?.querySelector("[name=loss]");
if (loss) {
  const tolerance = form.querySelector("[data-at=tolerance]");
  const show = () => {
    tolerance.hidden = loss.value === "";
    tolerance.querySelector("input").value = loss.value === "nme" ? "0.1" : "0.5";
  };
  loss.addEventListener("change", show);
  show();
}
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const data = new FormData(form);
  const chosen = data.get("loss") || null;
  try {
    await send("/api/audit/start", {
      error_rate: Number(data.get("error_rate")) / 100,
      confidence: Number(data.get("confidence")) / 100,
      blind: data.get("blind") === "yes",
      loss: chosen,
      tolerance: chosen ? Number(data.get("tolerance")) : null,
    });
    location.assign("/audit");
  } catch (error) {
    toast(error.message, { bad: true });
  }
});
