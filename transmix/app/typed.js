// Gradio refuses a slider's number beyond its ends, or none at all, before the page is asked: the one is brought
// inside, and of the other nothing is made until there is a number.
document.addEventListener('input', (event) => {
  const field = event.target;
  if (field.type !== 'number' || !field.closest('#ratio')) return;
  const number = Number(field.value);
  if (field.value === '') event.stopImmediatePropagation();
  else if (number < 0 || number > 1) field.value = number < 0 ? 0 : 1;
}, true);
