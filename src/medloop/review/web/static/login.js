// A link may bring its token behind the #, which no browser sends anywhere.

const field = document.querySelector("input[name=token]");
if (location.hash.length > 1) {
  field.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", "/login");
  field.form.submit();
}
