// Zoom and pan of a large photo, by buttons, keys, wheel and dragging; and the browser's way back.

const framed = () => {
    const frame = document.querySelector(".viewer-frame");
    return [frame, frame?.querySelector("img")];
};

/** Multiply the size of the photo, about a point of the window; factor 0 fits it into its frame. */
window.zoomPhoto = (factor, x, y) => {
    const [frame, photo] = framed();
    if (!photo) return;
    const zoom = factor ? Math.min(Math.max((Number(photo.dataset.zoom) || 1) * factor, 1), 16) : 1;
    const box = frame.getBoundingClientRect();
    const place = [(x ?? box.left + box.width / 2) - box.left, (y ?? box.top + box.height / 2) - box.top];
    const share = [(frame.scrollLeft + place[0]) / photo.offsetWidth, (frame.scrollTop + place[1]) / photo.offsetHeight];
    photo.dataset.zoom = zoom;
    photo.style.width = photo.style.height = `${100 * zoom}%`;
    frame.classList.toggle("zoomed", zoom > 1);
    frame.scrollLeft = share[0] * photo.offsetWidth - place[0];
    frame.scrollTop = share[1] * photo.offsetHeight - place[1];
};

document.addEventListener("wheel", event => {
    if (!event.target.closest?.(".viewer-frame")) return;
    event.preventDefault();
    zoomPhoto(event.deltaY < 0 ? 1.25 : 0.8, event.clientX, event.clientY);
}, {passive: false});

document.addEventListener("pointermove", event => {
    const [frame] = framed();
    if (event.pointerType === "mouse" && event.buttons === 1 && frame?.contains(event.target))
        frame.scrollBy(-event.movementX, -event.movementY);
});

document.addEventListener("dragstart", event => event.target.closest?.(".viewer-frame") && event.preventDefault());

window.addEventListener("popstate", () => emitEvent("address", location.search));
